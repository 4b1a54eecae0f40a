"""Checkpoints of every origin load to the same model; others are refused."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmpretrain.models import SwinTransformer as MMPretrainSwin
from mmseg.models.backbones import SwinTransformer
from safetensors.torch import save_file
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.converted_weights import import_swin
from vmt_mm.models.backbones.encoder_in_file import find_encoder
from vmt_mm.models.backbones.origins import swin_origin
from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.registry import MODELS
from vmt_mm.utils.compat import LISTS_TYPES

NANO = ARCHITECTURES["nano"]


def mmseg_state():
    generator = torch.Generator().manual_seed(3)
    state = SwinTransformer(**NANO).state_dict()
    return {
        k: torch.randn(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in state.items()
        if not re.match(r"norm\d", k)
    }


def concatenation_order(value):
    """Convert patch merging's inputs from ``nn.Unfold``'s order to the official one, by loops."""
    channels = value.shape[-1] // 4
    result = torch.empty_like(value)
    for position, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        for channel in range(channels):
            result[..., position * channels + channel] = value[..., channel * 4 + row * 2 + column]
    return result


def to_official(state):
    names = [
        ("stages.", "layers."),
        (".attn.w_msa.", ".attn."),
        (".ffn.layers.0.0.", ".mlp.fc1."),
        (".ffn.layers.1.", ".mlp.fc2."),
        ("patch_embed.projection.", "patch_embed.proj."),
    ]
    official = {}
    for key, value in state.items():
        if "downsample" in key:
            value = concatenation_order(value)
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        official[key] = value
    official["norm.weight"] = torch.full((160,), 7.0)
    official["norm.bias"] = torch.full((160,), 7.0)
    official["head.weight"] = torch.zeros(10, 160)
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 49, 49)
    return official


def to_timm(state):
    moved = {}
    for key, value in to_official(state).items():
        stage = re.match(r"layers\.(\d)\.downsample\.(.*)", key)
        moved[f"layers.{int(stage[1]) + 1}.downsample.{stage[2]}" if stage else key] = value
    return {k.replace("head.", "head.fc."): v for k, v in moved.items()}


def to_mmpretrain(state):
    state = {f"backbone.{k}": v for k, v in state.items()}
    state["backbone.norm3.weight"] = torch.full((160,), 7.0)
    state["backbone.norm3.bias"] = torch.full((160,), 7.0)
    state["head.fc.weight"] = torch.zeros(10, 160)
    return {"state_dict": state, "meta": {}}


def to_torchvision(state):
    renamed = {}
    for key, value in to_official(state).items():
        stage = re.match(r"layers\.(\d)\.(blocks|downsample)\.(.*)", key)
        if stage:
            place = 2 * int(stage[1]) + (1 if stage[2] == "blocks" else 2)
            key = f"features.{place}.{stage[3]}"
        key = key.replace("patch_embed.proj.", "features.0.0.")
        key = key.replace("patch_embed.norm.", "features.0.2.")
        renamed[key.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")] = value
    return {key: value for key, value in renamed.items() if not key.endswith("attn_mask")}


def to_hugging_face(state):
    """The names in files; newer versions of the library use others in memory."""
    names = [
        (r"^layers\.", "encoder.layers."),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^patch_embed\.norm\.", "embeddings.norm."),
        (r"^norm\.", "layernorm."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.output.dense."),
        (r"\.attn\.rel", ".attention.self.rel"),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ]
    renamed = {}
    for key, value in to_official(state).items():
        if key.startswith("head.") or key.endswith("attn_mask"):
            continue
        for theirs, new in names:
            key = re.sub(theirs, new, key)
        if ".attn.qkv." in key:
            for part, own in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[f"swin.{key.replace('attn.qkv', f'attention.self.{part}')}"] = own
        else:
            renamed[f"swin.{key}"] = value
    return {**renamed, "classifier.weight": torch.zeros(10, 160)}


def to_hugging_faces_model(state):
    """The names in memory, for detectors: no prefix, and output norms."""
    names = [
        ("swin.", ""),
        ("self.query", "q_proj"),
        ("self.key", "k_proj"),
        ("self.value", "v_proj"),
        ("self.rel", "relative_position_bias.rel"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ]
    renamed = {"swin.layernorm.weight": torch.full((160,), 7.0)}
    for key, value in to_hugging_face(state).items():
        for theirs, new in names:
            key = key.replace(theirs, new)
        renamed[key] = value
    del renamed["classifier.weight"]
    return {**renamed, "hidden_states_norms.stage1.weight": torch.ones(20)}


ORIGINS = {
    "mmseg": lambda s: {"state_dict": {f"backbone.{k}": v for k, v in s.items()}},
    "official": lambda s: {"model": to_official(s)},
    "timm": to_timm,
    "mmpretrain": to_mmpretrain,
    "torchvision": to_torchvision,
    "Hugging Face": to_hugging_face,
    "Hugging Face, in memory": to_hugging_faces_model,
}


def load(path, **options):
    encoder = MODELS.build(
        dict(type="MultiTaskSwin", arch="nano", tasks=["a"], pretrained=str(path), **options)
    )
    encoder.init_weights()
    return encoder


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_origin_gives_the_same_model(origin, tmp_path):
    state = mmseg_state()
    torch.save(ORIGINS[origin](state), tmp_path / "swin.pth")
    own = load(tmp_path / "swin.pth").state_dict()
    for key, value in state.items():
        assert torch.equal(own[key], value), key
    for level in range(4):
        assert torch.equal(own[f"norm{level}.weight"], torch.ones(20 * 2**level))
        assert torch.equal(own[f"norm{level}.bias"], torch.zeros(20 * 2**level))


def test_detected_origins():
    state = mmseg_state()
    found = {name: swin_origin(_plain(make(state))) for name, make in ORIGINS.items()}
    assert found == {name: name.partition(",")[0] for name in ORIGINS}


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_origin_can_be_imported(origin):
    state = mmseg_state()
    imported = import_swin(find_encoder(ORIGINS[origin](state), "file.pth"), "file.pth")
    assert imported.origin == origin.partition(",")[0]
    assert imported.config == dict(type="MultiTaskSwin", arch="nano")
    assert all(
        torch.equal(imported.state[key], state[key]) for key in imported.state.keys() & state.keys()
    )


def _plain(checkpoint):
    state = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    return {re.sub(r"^(backbone|swin)\.", "", k): v for k, v in state.items()}


def test_a_file_of_mmpretrains_own_model_loads_and_predicts_alike(tmp_path):
    theirs = MMPretrainSwin(
        arch=dict(embed_dims=20, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]),
        img_size=56,
        out_indices=(0, 1, 2, 3),
        out_after_downsample=False,
        pad_small_map=True,
    )
    theirs.eval()
    file = {f"backbone.{k}": v for k, v in theirs.state_dict().items()}
    torch.save({"state_dict": file}, tmp_path / "swin.pth")
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        own = load(tmp_path / "swin.pth").eval()(images)["a"]
        for level, expected in enumerate(theirs(images)):
            torch.testing.assert_close(own[level], expected)


def test_a_file_of_torchvisions_own_model_loads_and_predicts_alike(tmp_path):
    """At a size of which no stage has a single window, which torchvision does not shift."""
    theirs = TorchvisionSwin([4, 4], 20, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7]).eval()
    for parameter in theirs.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    x = torch.randn(1, 3, 260, 300)
    with torch.no_grad():
        own = load(tmp_path / "swin.pth").eval()(x)["a"]
        for number, layer in enumerate(theirs.features):
            x = layer(x)
            if number % 2:
                expected = F.layer_norm(x, x.shape[-1:]).permute(0, 3, 1, 2)
                torch.testing.assert_close(own[number // 2], expected, rtol=1e-4, atol=1e-4)


def test_a_file_with_hugging_faces_names_gives_timms_features(tmp_path):
    timm = pytest.importorskip("timm")
    sizes = dict(embed_dim=20, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), img_size=448)
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **sizes).eval()
    state = {key: 0.3 * v if v.is_floating_point() else v for key, v in mmseg_state().items()}
    theirs.load_state_dict({k: v for k, v in to_timm(state).items() if k in theirs.state_dict()})
    torch.save(to_hugging_face(state), tmp_path / "swin.pth")
    images = torch.randn(1, 3, 448, 448)
    with torch.no_grad():
        own = load(tmp_path / "swin.pth").eval()(images)["a"]
        for level, expected in enumerate(theirs.forward_intermediates(images)[1]):
            expected = F.layer_norm(expected.movedim(1, -1), (20 * 2**level,)).movedim(-1, 1)
            torch.testing.assert_close(own[level], expected, rtol=1e-4, atol=1e-4)


def test_segmentation_checkpoints_keep_their_output_norms(tmp_path):
    state = {**mmseg_state(), **{f"norm{i}.weight": torch.rand(20 * 2**i) for i in range(4)}}
    torch.save(state, tmp_path / "swin.pth")
    assert torch.equal(load(tmp_path / "swin.pth").norm2.weight, state["norm2.weight"])


def test_safetensors_and_half_precision(tmp_path):
    state = {k: v.half() for k, v in mmseg_state().items() if v.is_floating_point()}
    save_file(state, tmp_path / "swin.safetensors")
    encoder = load(tmp_path / "swin.safetensors")
    weight = encoder.stages[0].blocks[0].attn.w_msa.qkv.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["stages.0.blocks.0.attn.w_msa.qkv.weight"].float())


@pytest.mark.skipif(not LISTS_TYPES, reason="PyTorch before 2.6 refuses such checkpoints")
def test_checkpoints_of_mmengine_with_their_logs(tmp_path):
    hub = MessageHub("checkpoint")
    hub.update_scalar("train/loss", 0.5)
    hub.update_info("epoch", np.float64(1))
    torch.save(
        {"state_dict": mmseg_state(), "message_hub": hub.state_dict()}, tmp_path / "swin.pth"
    )
    load(tmp_path / "swin.pth")


def test_tables_of_another_window_are_interpolated(tmp_path):
    torch.save(mmseg_state(), tmp_path / "swin.pth")
    encoder = load(tmp_path / "swin.pth", window_size=8)
    assert encoder.stages[0].blocks[0].attn.w_msa.relative_position_bias_table.shape == (225, 1)


def drop(state):
    del state["stages.1.blocks.0.norm1.bias"]


def add(state):
    state["stages.1.blocks.9.norm1.bias"] = torch.zeros(40)


def reshape(state):
    state["patch_embed.projection.weight"] = torch.zeros(96, 3, 4, 4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, r"1 missing key\(s\): stages.1.blocks.0.norm1.bias"),
        (add, r"1 unexpected key\(s\): stages.1.blocks.9.norm1.bias"),
        (reshape, r"patch_embed.projection.weight \(96, 3, 4, 4\) \(model: \(20, 3, 4, 4\)\)"),
        (dict.clear, "contains no tensors"),
        (lambda s: (s.clear(), s.update(a=torch.zeros(1))), "not a Swin checkpoint: it has keys"),
    ],
)
def test_unfit_checkpoints_are_refused(spoil, message, tmp_path):
    state = mmseg_state()
    spoil(state)
    torch.save(state, tmp_path / "swin.pth")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "swin.pth")


class _Harmful:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"no checkpoint", None])
def test_damaged_and_harmful_files_are_refused(content, tmp_path, capsys):
    path = tmp_path / "swin.pth"
    if content is None:
        torch.save({"state_dict": _Harmful()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"swin.pth: cannot be read as weights"):
        load(path)
    assert "executed" not in capsys.readouterr().out
