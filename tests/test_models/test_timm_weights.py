"""Files of other origins give MultiTaskTimmViT the features of timm; so does timm's own hub.

`test_timm_vit.py` tests the model on timm's keys; here are the keys of other libraries, written by
hand from timm's tensors. `test_vit_checkpoint.py` is about MultiTaskViT.
"""

import io
import re
import sys
import time
import urllib.error
from importlib import import_module

import pytest
import torch
from safetensors.torch import save_file

from vmt_mm.errors import InputError
from vmt_mm.models.backbones import peft_backbone, timm_weights
from vmt_mm.models.backbones.looks import looks_like
from vmt_mm.models.backbones.pretrained import locate
from vmt_mm.registry import MODELS

timm = pytest.importorskip("timm")

SMALL = dict(embed_dim=24, depth=4, num_heads=3)
#: Part of a model's name -> its size of images, where it has positions.
SIZES = dict(dinov2=42, eva02=42, siglip=48, clip=48, pe_=48, vit_small_patch16_224=48)
HUB = "timm://vit_tiny_patch16_224.augreg_in21k"


def options_of(name):
    side = next((side for part, side in SIZES.items() if part in name), None)
    return SMALL | (dict(img_size=side) if side else {})


def make_stock(name, **options):
    """timm's original, with random weights."""
    sizes = dict(dynamic_img_size=True, dynamic_img_pad=True, num_classes=0)
    options = {**sizes, **options_of(name), **options}
    stock, generator = timm.create_model(name, **options), torch.Generator()
    generator.manual_seed(1)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return stock.eval()


def load(path, name, **model_kwargs):
    backbone = MODELS.build(
        dict(
            type="MultiTaskTimmViT",
            tasks=["a"],
            model_name=name,
            pretrained=str(path),
            model_kwargs=options_of(name) | model_kwargs,
        )
    )
    backbone.init_weights()
    return backbone.eval()


def check_features(backbone, stock):
    images = torch.randn(1, 3, 56, 83)
    with torch.no_grad():
        expected = stock.forward_intermediates(
            images, [0, 1, 2, 3], norm=True, intermediates_only=True
        )
        for own, theirs in zip(backbone(images, lazy=True)["a"], expected, strict=True):
            assert (own.grid - theirs).norm() <= 1e-5 * theirs.norm()


def replace(state, *pairs):
    for pattern, replacement in pairs:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


def with_position_of_class(state):
    """Registers without a position: DINOv2's files give one to the class token only."""
    position = torch.randn(1, 1, 24)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    return state


def split(state, names, biases="qkv"):
    """Separate q, k, v; ``names`` are their places in a block."""
    result = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            for part, name, own in zip("qkv", names, value.chunk(3), strict=True):
                if key.endswith("weight") or part in biases:
                    result[key.replace("attn.qkv", name)] = own
        else:
            result[key] = value
    return result


def dinov3_biases(state):
    """As in the original files: one bias of q, k, v, that of k has no effect."""
    for key in [key for key in state if key.endswith(".attn.q_bias")]:
        parts = [state.pop(key), torch.zeros(24), state.pop(key.replace("q_bias", "v_bias"))]
        state[key.replace("q_bias", "qkv.bias")] = torch.cat(parts)
    return state


OLD = [f"attention.attention.{name}" for name in ("query", "key", "value")]
NEW = [f"attention.{name}_proj" for name in "qkv"]
TOKENS = [
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^reg_token$", "embeddings.register_tokens"),
]


def hf_dinov2(state):
    state = split({**with_position_of_class(state), "mask_token": torch.zeros(1, 24)}, OLD)
    return replace(
        state, *TOKENS, (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."), (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"), (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"),
    )  # fmt: skip


def without_mask_token(state):
    state = hf_dinov2(state)
    del state["embeddings.mask_token"]
    return state


def hf_dinov3(state):
    state = split({**dinov3_biases(state), "mask_token": torch.zeros(1, 1, 24)}, NEW, "qv")
    return replace(
        state, *TOKENS, (r"^patch_embed\.proj", "embeddings.patch_embeddings"),
        (r"^blocks\.", "layer."), (r"attn\.proj", "attention.o_proj"),
        (r"gamma_(\d)$", r"layer_scale\1.lambda1"), (r"fc1_g", "gate_proj"),
        (r"fc1_x|fc1", "up_proj"), (r"fc2", "down_proj"),
    )  # fmt: skip


def hf_siglip(state):
    state = split(state, [f"self_attn.{name}_proj" for name in "qkv"])
    state = {key: value for key, value in state.items() if not key.startswith("attn_pool.")}
    state = replace(
        state, (r"^pos_embed$", "embeddings.position_embedding.weight"),
        (r"^patch_embed\.proj", "embeddings.patch_embedding"), (r"^norm\.", "post_layernorm."),
        (r"^blocks\.", "encoder.layers."), (r"attn\.proj", "self_attn.out_proj"),
        (r"\.norm(\d)\.", r".layer_norm\1."), (r"^", "vision_model."),
    )  # fmt: skip
    state["vision_model.head.probe"] = torch.zeros(1, 1, 24)
    position = "vision_model.embeddings.position_embedding.weight"
    text = {"text_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(24, 24),
            "text_model.embeddings.position_embedding.weight": torch.zeros(9, 24),
            "logit_scale": torch.zeros(1)}  # fmt: skip
    return {**state, **text, position: state[position][0]}


def hf_vit(state):
    state = split(state, OLD)
    state = replace(
        state, *TOKENS, (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^norm\.", "layernorm."), (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"), (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"), (r"norm1", "layernorm_before"),
        (r"norm2", "layernorm_after"), (r"^", "vit."),
    )  # fmt: skip
    return {**state, "classifier.weight": torch.zeros(7, 24)}


def hf_clip(state):
    state = replace(
        hf_siglip(state), (r"embeddings\.cls|\.cls_token", ".embeddings.class_embedding"),
        (r"norm_pre", "pre_layrnorm"),
    )  # fmt: skip
    token = "vision_model.embeddings.class_embedding"
    return {**state, token: state[token][0, 0]}


def original_dinov2(state):
    """With blocks in chunks of two."""
    state = {**with_position_of_class(state), "mask_token": torch.zeros(1, 24)}
    state = replace(state, (r"^reg_token$", "register_tokens"))
    chunked = {}
    for key, value in state.items():
        number = re.match(r"blocks\.(\d+)\.", key)
        chunked[f"blocks.{int(number[1]) // 2}.{key[7:]}" if number else key] = value
    return {"teacher": {f"backbone.{key}": value for key, value in chunked.items()}}


def original_dinov3(state):
    state = dinov3_biases({**state, "mask_token": torch.zeros(1, 24)})
    masks = {f"blocks.{n}.attn.qkv.bias_mask": torch.full((72,), torch.nan) for n in range(4)}
    exponents = torch.arange(2) / 2  # of the four pairs of channels in a head of 8, for two axes
    periods = (100**exponents).bfloat16()
    gated = any("fc1_g" in key for key in state)
    state |= {**masks, "rope_embed.periods": periods, "local_cls_norm.bias": torch.zeros(24)}
    return replace(
        state, (r"^reg_token$", "storage_tokens"), (r"gamma_(\d)$", r"ls\1.gamma"),
        (r"fc1_g", "w1"), (r"fc1_x", "w2"), (r"fc2", "w3" if gated else "fc2"),
    )  # fmt: skip


def openai(state):
    """CLIP and PE, with their text models."""
    state = {key: value for key, value in state.items() if not key.startswith("attn_pool.")}
    state = replace(
        state, (r"^patch_embed\.proj", "conv1"), (r"^pos_embed$", "positional_embedding"),
        (r"^cls_token$", "class_embedding"), (r"^blocks\.", "transformer.resblocks."),
        (r"^norm_pre", "ln_pre"), (r"^norm\.", "ln_post."), (r"\.norm(\d)\.", r".ln_\1."),
        (r"attn\.qkv\.", "attn.in_proj_"), (r"attn\.proj", "attn.out_proj"),
        (r"fc1", "c_fc"), (r"fc2", "c_proj"), (r"^", "visual."),
    )  # fmt: skip
    state["visual.class_embedding"] = state["visual.class_embedding"][0, 0]
    state["visual.positional_embedding"] = state["visual.positional_embedding"][0]
    state["visual.proj"] = torch.zeros(24, 7)
    text = {"positional_embedding": torch.zeros(9, 24), "ln_final.weight": torch.zeros(24),
            "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(72, 24)}  # fmt: skip
    return {**text, **state}


def original_eva02(state):
    """Of its pretraining: a mask token, tables of the rotary embedding in every block."""
    names = dict(fc1_g="w1", fc1_x="w2", fc1="w12", fc2="w3", fc_norm="norm")
    names |= {"mlp.norm": "mlp.ffn_ln", "q_proj.bias": "q_bias", "v_proj.bias": "v_bias"}
    for ours, theirs in names.items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    other = {f"blocks.{n}.attn.rope.freqs_cos": torch.zeros(9, 16) for n in range(4)}
    other |= {"mask_token": torch.zeros(1, 1, 24), "lm_head.bias": torch.zeros(7)}
    return {"module": {**state, **other}}


def trunk(state):
    return {f"visual.trunk.{key}": value for key, value in state.items()}


CASES = {
    "Hugging Face's DINOv2": ("vit_small_patch14_reg4_dinov2", hf_dinov2),
    "Hugging Face's DINOv2, no mask": ("vit_small_patch14_reg4_dinov2", without_mask_token),
    "Hugging Face's DINOv3": ("vit_small_patch16_dinov3_qkvb", hf_dinov3),
    "Hugging Face's DINOv3 S+": ("vit_small_plus_patch16_dinov3_qkvb", hf_dinov3),
    "Hugging Face's DINOv3 without biases": ("vit_small_patch16_dinov3", hf_dinov3),
    "Hugging Face's SigLIP": ("vit_base_patch16_siglip_224", hf_siglip),
    "Hugging Face's SigLIP 2": ("vit_base_patch16_siglip_224.v2_webli", hf_siglip),
    "Hugging Face's ViT": ("vit_small_patch16_224", hf_vit),
    "Hugging Face's CLIP": ("vit_base_patch16_clip_224", hf_clip),
    "original DINOv2": ("vit_small_patch14_reg4_dinov2", original_dinov2),
    "original DINOv3": ("vit_small_patch16_dinov3_qkvb", original_dinov3),
    "original DINOv3 S+": ("vit_small_plus_patch16_dinov3_qkvb", original_dinov3),
    "original EVA-02 S": ("eva02_small_patch14_224", original_eva02),
    "original EVA-02 B": ("eva02_base_patch14_224", original_eva02),
    "original PE": ("vit_pe_core_small_patch16_384", openai),
    "original CLIP": ("vit_base_patch16_clip_224", openai),
    "open_clip's SigLIP": ("vit_base_patch16_siglip_224", trunk),
}


@pytest.mark.parametrize("case", CASES)
def test_files_of_every_origin_give_timms_features(case, tmp_path, monkeypatch):
    (name, write), said = CASES[case], []
    seam = "vmt_mm.models.backbones.pretrained.print_log"
    monkeypatch.setattr(seam, lambda text, *_: said.append(text))
    stock = make_stock(name)
    torch.save(write(stock.state_dict()), tmp_path / "file.pth")
    check_features(load(tmp_path / "file.pth", name), stock)
    origin = "Hugging Face keys" if "Hugging" in case else "original repository's keys"
    assert ("timm keys" if "open_clip" in case else origin) in said[-1]


def test_the_final_norm_of_eva02_stays_if_the_model_has_one(tmp_path):
    """timm calls it the norm after pooling, which the features do not pass."""
    name, options = "eva02_base_patch14_224", dict(global_pool="token")
    stock = make_stock(name, **options)
    torch.save(original_eva02(stock.state_dict()), tmp_path / "file.pth")
    check_features(load(tmp_path / "file.pth", name, **options), stock)


@pytest.mark.parametrize(
    ("name", "theirs", "pool"),
    [
        ("eva02_base_patch14_224", "token", "token"),
        ("vit_small_patch16_224", "avg", "avg"),
        ("vit_medium_patch16_reg4_gap_256", "", ""),
    ],
)
def test_a_file_with_another_last_norm_names_the_setting(name, theirs, pool, tmp_path):
    torch.save(make_stock(name, global_pool=theirs).state_dict(), tmp_path / "file.pth")
    with pytest.raises(InputError, match=f"norm', but .*dict\\(global_pool='{pool}'\\)"):
        load(tmp_path / "file.pth", name)
    load(tmp_path / "file.pth", name, global_pool=pool)


def test_safetensors_and_positions_of_another_grid(tmp_path):
    """Resized positions are those of timm's own resampling, and are known as resized."""
    name = "vit_small_patch14_reg4_dinov2"
    stock = make_stock(name)
    state = {k: v.contiguous() for k, v in hf_dinov2(stock.state_dict()).items()}
    save_file(state, tmp_path / "model.safetensors")
    own = load(tmp_path / "model.safetensors", name, img_size=70)
    assert own.resized_keys == {"pos_embed"}
    resample = import_module("timm.layers").resample_abs_pos_embed
    expected = resample(stock.pos_embed, [5, 5], [3, 3], 0)
    torch.testing.assert_close(own.pos_embed.data, expected.data)
    torch.testing.assert_close(own.cls_token.data, stock.cls_token.data)


@pytest.mark.parametrize("write", [dict, hf_dinov3, original_dinov3])
@pytest.mark.parametrize("tag", ["", ".lvd1689m"])
def test_biases_that_the_model_lacks_are_an_error_unless_zero(write, tag, tmp_path):
    name, stock = f"vit_small_patch16_dinov3{tag}", make_stock("vit_small_patch16_dinov3_qkvb")
    state = stock.state_dict()
    torch.save(write(dict(state)), tmp_path / "file.pth")
    message = rf"biases of q and v: .*set model_name='vit_small_patch16_dinov3_qkvb{tag}'"
    with pytest.raises(InputError, match=message):
        load(tmp_path / "file.pth", name)
    for key in state:
        if key.endswith("_bias"):
            state[key].zero_()
    torch.save(write(dict(state)), tmp_path / "file.pth")
    check_features(load(tmp_path / "file.pth", name), stock)


def test_biases_of_blocks_that_are_left_out_are_not_missed(tmp_path):
    name = "vit_small_patch16_dinov3_qkvb"
    torch.save(make_stock(name, depth=6).state_dict(), tmp_path / "file.pth")
    options = dict(model_name=name, model_kwargs=dict(SMALL, depth=6), out_indices=(0, 1, 2, 3))
    backbone = MODELS.build(
        dict(type="MultiTaskTimmViT", tasks=["a"], pretrained=str(tmp_path / "file.pth"), **options)
    )
    backbone.init_weights()
    assert len(backbone.blocks) == 4


def test_other_rotary_periods_are_an_error(tmp_path):
    name = "vit_small_patch16_dinov3_qkvb"
    state = original_dinov3(make_stock(name).state_dict())
    state["rope_embed.periods"] = state["rope_embed.periods"] * 1.02
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(InputError, match="other rotary periods than 'vit_small.*rope_temperature"):
        load(tmp_path / "file.pth", name)


def lose(state):
    del state["encoder.layer.1.attention.attention.key.weight"]


def add(state):
    state["encoder.layer.1.extra"] = torch.zeros(1)


def reshape(state):
    state["embeddings.patch_embeddings.projection.weight"] = torch.zeros(24, 3, 16, 16)


def flatten(state):
    key = "embeddings.patch_embeddings.projection.weight"
    state[key] = state[key].flatten(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lose, r"1 missing key\(s\): blocks.1.attn.qkv.weight; 2 unexpected .*attn.q_proj.weight"),
        (add, r"\(Hugging Face keys\): 1 unexpected key\(s\): blocks.1.extra"),
        (reshape, r"proj.weight \(24, 3, 16, 16\) \(model: \(24, 3, 14, 14\)\)"),
        (
            flatten,
            "not a file of a plain ViT with a patch convolution; it looks like .*no backbone",
        ),
    ],
)
def test_unfit_files_are_one_message(spoil, message, tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    state = hf_dinov2(make_stock(name).state_dict())
    spoil(state)
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "file.pth", name)


#: Keys and shapes of a file -> what the message calls it.
WRONG = {
    "a Swin of width 96, for MultiTaskSwin": {
        "layers.0.blocks.0.attn.qkv.weight": (288, 96), "patch_embed.proj.weight": (96, 3, 4, 4),
    },
    "a ResNet, which no backbone of this package takes": {
        "conv1.weight": (64, 3, 7, 7), "layer1.0.conv1.weight": (64, 64, 1, 1),
    },
    "a DINOv3 of width 384 with 12 blocks, for MultiTaskTimmViT(model_name='vit_small_patch16_dino"
    "v3')": {
        "storage_tokens": (1, 4, 384), "patch_embed.proj.weight": (384, 3, 16, 16),
        "cls_token": (1, 1, 384), "blocks.0.ls1.gamma": (384,),
        "blocks.0.attn.qkv.weight": (1152, 384), "blocks.11.attn.qkv.weight": (1152, 384),
    },
    "a DINOv2 with registers of width 768 with 12 blocks, for MultiTaskTimmViT(model_name='vit_base"
    "_patch14_reg4_dinov2')": {
        "embeddings.register_tokens": (1, 4, 768), "embeddings.position_embeddings": (1, 50, 768),
        "embeddings.cls_token": (1, 1, 768),
        "embeddings.patch_embeddings.projection.weight": (768, 3, 14, 14),
        "encoder.layer.11.layer_scale1.lambda1": (768,),
    },
    "a ViT of width 768 with 12 blocks, for MultiTaskViT or MultiTaskTimmViT(model_name='vit_base_p"
    "atch16_224')": {
        "cls_token": (1, 1, 768), "pos_embed": (1, 197, 768), "blocks.0.attn.qkv.weight": (9, 768),
        "blocks.11.attn.qkv.weight": (9, 768), "patch_embed.proj.weight": (768, 3, 16, 16),
    },
    "a SigLIP of width 1024 with 24 blocks, for MultiTaskTimmViT(model_name='vit_large_patch16_sigl"
    "ip_*')": {
        "vision_model.embeddings.patch_embedding.weight": (1024, 3, 16, 16),
        "vision_model.head.probe": (1, 1, 1024),
        "vision_model.encoder.layers.0.layer_norm1.weight": (1024,),
        "vision_model.encoder.layers.23.layer_norm1.weight": (1024,),
    },
    "a ViT with LayerScale of width 384 with 1 blocks": {
        "cls_token": (1, 1, 384), "pos_embed": (1, 196, 384), "blocks.0.ls1.gamma": (384,),
        "patch_embed.proj.weight": (384, 3, 16, 16), "blocks.0.attn.qkv.bias": (9,),
    },
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=lambda text: " ".join(text.split()[:3]).strip(","))
@pytest.mark.parametrize("kind", ["MultiTaskTimmViT", "MultiTaskViT", "MultiTaskSwin"])
def test_a_wrong_file_says_what_it_looks_like(kind, text, tmp_path):
    state = {key: torch.zeros(shape) for key, shape in WRONG[text].items()}
    torch.save(state, tmp_path / "file.pth")
    options = dict(
        MultiTaskTimmViT=dict(model_name="vit_small_patch16_224", model_kwargs=SMALL),
        MultiTaskViT=dict(arch="deit-tiny", img_size=224, patch_size=16),
        MultiTaskSwin=dict(arch="nano"),
    )[kind]
    backbone = MODELS.build(
        dict(type=kind, tasks=["a"], pretrained=str(tmp_path / "file.pth"), **options)
    )
    if kind == "MultiTaskViT":  # none of the class or the model that refused the file
        text = text.replace("MultiTaskViT or ", "")
    elif kind == "MultiTaskSwin":
        text = text.removesuffix(", for MultiTaskSwin")
    with pytest.raises(InputError) as error:
        backbone.init_weights()
    assert re.search(rf"looks like {re.escape(text)}($|; it has keys)", str(error.value))


#: Name in timm of a model -> what its file looks like, without widths of which timm has no model.
LOOKS = {
    "vit_small_patch16_dinov3": "a DINOv3 of width 384 with 1 blocks, vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3": "a DINOv3 of width 384 .*, vit_small_plus_patch16_dinov3",
    "vit_huge_plus_patch16_dinov3": "a DINOv3 of width 1280 .*, vit_huge_plus_patch16_dinov3",
    "vit_tiny_patch16_dinov3_qkvb": "a DINOv3 of width 192 with 1 blocks",
    "vit_small_patch14_reg4_dinov2": "a DINOv2 with registers .*, vit_small_patch14_reg4_dinov2",
    "vit_small_patch14_dinov2": "a ViT with LayerScale .*, vit_small_patch14_dinov2",
    "deit3_small_patch16_224": "a ViT with LayerScale of width 384 with 1 blocks",
    "vit_small_patch16_224": "a ViT of width 384 with 1 blocks, vit_small_patch16_224",
    "vit_base_patch16_siglip_256": "a SigLIP of width 768 .*, vit_base_patch16_siglip_*",
    "vit_base_patch16_clip_224": "a CLIP or PE of width 768 with 1 blocks",
    "vit_pe_core_small_patch16_384": "a CLIP or PE of width 384 with 1 blocks",
    "eva02_small_patch14_224": "an EVA of width 384 with 1 blocks, eva02_small_patch14_*",
    "eva02_large_patch14_224": "an EVA of width 1024 with 1 blocks, eva02_large_patch14_*",
    "beit_base_patch16_224": "",
    "vit_medium_patch16_reg1_gap_256": "a ViT with LayerScale of width 512 with 1 blocks",
    "vit_betwixt_patch16_reg4_gap_256": "a ViT with LayerScale of width 640 with 1 blocks",
    "vit_mediumd_patch16_rope_reg1_gap_256": "",
    "mobilenetv3_small_050": "", "swinv2_cr_tiny_224": "a Swin-V2, which no backbone .*",
    "convnext_atto": "a ConvNeXt, which no backbone .*",
}  # fmt: skip


@pytest.mark.parametrize("name", LOOKS)
def test_models_that_fit_are_offered_only_if_timm_has_them(name, monkeypatch):
    sizes = dict(depth=1) if name.startswith(("vit", "deit", "eva", "beit")) else {}
    with torch.device("meta"):
        state = timm.create_model(name, **sizes).state_dict()
    kind, _, model = LOOKS[name].partition(", vit") if ", vit" in LOOKS[name] else (
        LOOKS[name].partition(", eva")
    )  # fmt: skip
    found, _, offered = looks_like(state).partition(", for ")
    assert re.fullmatch(kind, found)
    assert bool(model) == bool(offered)
    assert offered.endswith(f"{model}')" if model else "")
    assert not model or looks_like(state, f"{name}.tag") == found
    monkeypatch.setitem(sys.modules, "timm", None)
    assert looks_like(state) == found


def test_a_name_in_timms_hub_is_loaded_by_timm(monkeypatch):
    """The weights are those that timm's own function returns, and a network is only asked once."""
    stock = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=0)
    asked, downloaded = [], []

    def download(model_id, *_, **__):
        downloaded.append((model_id, import_module("huggingface_hub.constants").HF_HUB_OFFLINE))
        return stock.state_dict()

    def answer(address, timeout):
        asked.append((address, timeout))
        return io.BytesIO()

    monkeypatch.setattr(timm_weights, "urlopen", answer)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", download)
    options = dict(model_name="vit_tiny_patch16_224", tasks=["a"], pretrained=HUB)
    backbone = MODELS.build(dict(type="MultiTaskTimmViT", **options))
    backbone.init_weights()
    state = backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in stock.state_dict().items())
    assert downloaded == [("timm/vit_tiny_patch16_224.augreg_in21k", False)]
    assert asked == [("https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in21k", 5)]
    other = MODELS.build(
        dict(type="MultiTaskViT", arch="deit-tiny", img_size=224, patch_size=16, tasks=["a"],
             pretrained=HUB)
    )  # fmt: skip
    other.init_weights()
    assert torch.equal(other.cls_token, stock.cls_token)


def test_without_a_network_there_is_one_message_soon(monkeypatch, tmp_path):
    constants = import_module("huggingface_hub.constants")

    def fail(address, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(timm_weights, "urlopen", fail)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before, start = constants.HF_HUB_OFFLINE, time.monotonic()
    address = "download the weights from https://huggingface.co/timm/vit_tiny_patch16_224.augreg_in"
    with pytest.raises(InputError, match=f"'{HUB}' cannot be loaded .*{address}.* pretrained="):
        timm_weights.read_from_hub(HUB)
    assert time.monotonic() - start < 10
    assert before == constants.HF_HUB_OFFLINE


def test_without_a_network_files_of_the_cache_are_used(monkeypatch, tmp_path):
    stock = timm.create_model("vit_tiny_patch16_224.augreg_in21k", num_classes=21843)
    repository = tmp_path / "models--timm--vit_tiny_patch16_224.augreg_in21k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(stock.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(timm_weights, "_answers", lambda address: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    state = timm_weights.read_from_hub(HUB)
    assert torch.equal(state["norm.weight"], stock.norm.weight)
    assert torch.equal(state["blocks.3.attn.qkv.weight"], stock.blocks[3].attn.qkv.weight)


def test_a_server_that_answers_with_an_error_is_reached(monkeypatch):
    def refuse(address, timeout):
        raise urllib.error.HTTPError(address, 403, "forbidden", None, None)

    monkeypatch.setattr(timm_weights, "urlopen", refuse)
    assert timm_weights._answers("https://huggingface.co/timm/any")


def test_names_that_timm_does_not_have():
    assert locate(HUB) == HUB
    for name in ("timm://none", "timm://vit_tiny_patch16_224.none", "timm://"):
        with pytest.raises(InputError, match=rf"pretrained '{name}': timm has no such weights"):
            locate(name)


def test_the_tag_tells_siglip_and_siglip_2_apart(monkeypatch):
    """Shapes and keys are the same, so a file cannot say which it is; the names of weights do."""
    names = [f"vit_base_patch16_siglip_224.{tag}" for tag in ("webli", "v2_webli")]
    hubs = [timm_weights.hub_config(f"timm://{name}").hf_hub_id for name in names]
    assert hubs == [f"timm/{name}" for name in names]
    stock = make_stock(names[0])
    options = dict(model_kwargs=options_of(names[0]), tasks=["a"], allow_random_backbone=True)
    one, other = (
        MODELS.build(dict(type="MultiTaskTimmViT", model_name=name, **options)) for name in names
    )
    one.load_frozen(stock.state_dict(), f"timm://{names[0]}")
    check_features(one.eval(), stock)
    monkeypatch.setattr(peft_backbone, "read_state_dict", None)  # no download
    message = "has the tag 'webli', but model_name='vit_base_patch16_siglip_224.v2_webli'; set the"
    with pytest.raises(InputError, match=message):
        other.load_pretrained(f"timm://{names[0]}")
