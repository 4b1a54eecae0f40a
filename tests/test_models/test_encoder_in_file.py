"""A backbone is found in files of any training, and the chosen one is logged."""

import pytest
import torch

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.encoder_in_file import find_encoder
from vmt_mm.models.backbones.origins import swin_origin, to_mmpretrain_keys, vit_origin

VIT = ("cls_token", "mask_token", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma")
SWIN = (
    "patch_embed.proj.weight",
    "layers.0.blocks.0.attn.qkv.weight",
    "layers.1.blocks.0.attn.qkv.weight",
)


def state(value=1.0, prefix="", keys=VIT):
    return {prefix + key: torch.full((2,), value) for key in keys}


#: Content -> the value of the backbone's tensors.
FILES = {
    "plain": state(),
    "Lightning": {"state_dict": state(prefix="model."), "optimizer_states": [dict(a=state(3.0))]},
    "Lightning, compiled": {"state_dict": state(prefix="model._orig_mod.")},
    "distributed": {"state_dict": state(prefix="module._orig_mod.net.encoder.")},
    "any prefix": {"weights": {"inner": state(prefix="student_free.part.vit.")}},
    "next to other parts": {"model": {**state(), "head.weight": torch.zeros(1)}},
    "next to its decoder": {
        "state_dict": {**state(prefix="backbone."), **state(2.0, "decode_head.", ("conv.weight",))}
    },
    "DINOv2's teacher": {"teacher": {**state(prefix="backbone."), "dino_head.w": torch.zeros(1)}},
    "DINOv2's training": {"model": {**state(prefix="teacher.backbone."),
                                    **state(2.0, "student.backbone.")}},
    "DINO": {"student": state(2.0, "module.backbone."), "teacher": state(prefix="backbone.")},
    "timm": {"state_dict": state(2.0), "state_dict_ema": state()},
    "DeiT": {"model": state(2.0), "model_ema": state()},
    "others": {"state_dict": state(2.0), "ema_state_dict": state(prefix="module.")},
    "Lightning's averages": {"state_dict": {**state(2.0, "model."), **state(1.0, "ema_model.")}},
    "mmengine": {
        "meta": dict(mmengine_version="0.10"),
        "state_dict": state(prefix="backbone."),
        "ema_state_dict": state(2.0, "module.backbone."),
    },
    "MoCo": {"state_dict": {**state(prefix="module.base_encoder."),
                            **state(2.0, "module.momentum_encoder.")}},
    "an optimizer's state": {"model": state(), "optimizer": {"state": state(2.0)}},
    "twice the same": {"state_dict": state(), "model": state()},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_backbone_is_found(name):
    found = find_encoder(FILES[name], "file.pth")
    assert set(VIT) <= set(found)
    assert {found[key][0].item() for key in VIT} == {1.0}
    assert vit_origin(found) == "dinov2"
    assert not {"module", "teacher", "student", "model"} & {key.split(".")[0] for key in found}


@pytest.mark.parametrize("name", ["DINOv2's training", "timm", "mmengine"])
def test_the_chosen_one_of_several_is_logged(name, monkeypatch):
    said = []
    seam = "vmt_mm.models.backbones.encoder_in_file.print_log"
    monkeypatch.setattr(seam, lambda text, *_: said.append(text))
    find_encoder(FILES[name], "file.pth")
    (text,) = said
    assert {
        "DINOv2's training": "using ['model']teacher.backbone., not ['model']student.backbone.",
        "timm": "using ['state_dict_ema'], not ['state_dict']",
        "mmengine": "using ['state_dict']backbone., not",
    }[name] in text
    find_encoder(FILES["twice the same"], "file.pth")
    assert len(said) == 1


def test_an_ambiguous_file_is_refused():
    content = {"state_dict": {**state(prefix="rgb."), **state(2.0, "depth.")}}
    with pytest.raises(InputError, match=r"file.pth contains several backbones, .*depth\.") as e:
        find_encoder(content, "file.pth")
    assert "rgb." in str(e.value)


def test_a_swin_is_found_as_well():
    found = find_encoder({"state_dict": state(prefix="model.", keys=SWIN)}, "file.pth")
    assert sorted(found) == sorted(SWIN)


def test_blocks_in_chunks():
    keys = ("cls_token", "mask_token", "blocks.0.0.attn.qkv.weight", "blocks.0.0.ls1.gamma",
            "blocks.2.21.mlp.fc1.weight")  # fmt: skip
    found = find_encoder({"teacher": state(prefix="backbone.", keys=keys)}, "file.pth")
    assert vit_origin(found) == "dinov2"
    assert "layers.21.ffn.layers.0.0.weight" in to_mmpretrain_keys(found)
    assert "layers.0.attn.qkv.weight" in to_mmpretrain_keys(found)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("layers.0.blocks.0.attn.cpb_mlp.0.weight", "a Swin-V2"),
        ("features.1.0.attn.cpb_mlp.0.weight", "a Swin-V2"),
        (
            "swin.encoder.layers.0.blocks.0.attention.self.continuous_position_bias_mlp.0.weight",
            "a Swin-V2",
        ),
        ("encoder.layers.encoder_layer_0.ln_1.weight", "a ViT of torchvision"),
        ("module.layer1.0.conv1.weight", "a ResNet"),
        ("stages.0.blocks.0.conv_dw.weight", "a ConvNeXt"),
    ],
)
def test_files_that_are_not_read_are_named(key, name):
    found = find_encoder({"model": {key: torch.zeros(1)}}, "file.pth")
    for detect in (vit_origin, swin_origin):
        with pytest.raises(
            InputError, match=f"file.pth is not a .* looks like {name}, .*like {key}"
        ):
            detect(found, "file.pth")


@pytest.mark.parametrize("content", [{}, {"model": {}}, [torch.zeros(1)], None, {"a": 1}])
def test_a_file_without_tensors(content):
    with pytest.raises(InputError, match="contains no tensors"):
        find_encoder(content, "file.pth")
