"""ViT checkpoints of every origin load to the same model; others are refused."""

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import VisionTransformer

from vmt_mm.errors import InputError
from vmt_mm.models.backbones import pretrained
from vmt_mm.models.backbones.origins import vit_origin
from vmt_mm.registry import MODELS

PLAIN = dict(
    arch=dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=16),
    img_size=40,
    patch_size=8,
)
SCALED = dict(**PLAIN, layer_scale_init_value=0.1)
GATED = dict(**SCALED, layer_cfgs=dict(ffn_type="swiglu_fused"))


def random_state(options=SCALED):
    """A random state dict with mmpretrain's keys."""
    generator = torch.Generator().manual_seed(3)
    state = VisionTransformer(**options).state_dict()
    return {k: torch.randn(v.shape, generator=generator) for k, v in state.items()}


def to_timm(state):
    names = [
        ("patch_embed.projection.", "patch_embed.proj."),
        (".attn.gamma1.weight", ".ls1.gamma"),
        (".ffn.gamma2.weight", ".ls2.gamma"),
        (".ffn.layers.0.0.", ".mlp.fc1."),
        (".ffn.layers.1.", ".mlp.fc2."),
        (".ffn.w", ".mlp.w"),
        (".ln1.", ".norm1."),
        (".ln2.", ".norm2."),
        ("ln1.", "norm."),  # the remaining norm is the final one
        ("layers.", "blocks."),
    ]
    renamed = {}
    for key, value in state.items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        renamed[key] = value
    return renamed


def to_timm_classifier(state):
    head = {"head.weight": torch.zeros(10, 8), "fc_norm.weight": torch.ones(8)}
    return {**to_timm(state), **head}


def to_dinov2(state):
    return {**to_timm(state), "mask_token": torch.zeros(1, 8)}


def to_mae(state):
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 26, 8),
        "decoder_blocks.0.norm1.weight": torch.zeros(8),
        "decoder_norm.bias": torch.zeros(8),
    }
    return {"model": {**to_timm(state), **decoder}}


def to_mmpretrain(state):
    state = {f"backbone.{k}": v for k, v in state.items()}
    state["backbone.ln2.weight"] = torch.ones(8)  # of a classifier on pooled patches
    state["head.layers.head.weight"] = torch.zeros(10, 8)
    return {"state_dict": state, "meta": {}}


def to_hugging_face(state):
    """A Dinov2, or a ViT if it has no LayerScale."""
    names = [
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("pos_embed", "embeddings.position_embeddings"),
        ("cls_token", "embeddings.cls_token"),
        ("blocks.", "encoder.layer."),
        ("attn.proj", "attention.output.dense"),
        (".ls1.gamma", ".layer_scale1.lambda1"),
        (".ls2.gamma", ".layer_scale2.lambda1"),
        ("mlp.w12", "mlp.weights_in"),
        ("mlp.w3", "mlp.weights_out"),
    ]
    renamed = {"dinov2.pooler.dense.weight": torch.zeros(8, 8)}
    for key, value in to_timm(state).items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        key = f"dinov2.layernorm.{key[5:]}" if key.startswith("norm.") else f"dinov2.{key}"
        if ".attn.qkv." in key:
            for part, own in zip(("query", "key", "value"), value.chunk(3), strict=True):
                renamed[key.replace("attn.qkv", f"attention.attention.{part}")] = own
        else:
            renamed[key] = value
    return {**renamed, "dinov2.embeddings.mask_token": torch.zeros(1, 8)}


#: Case -> options of the model, writer of the file, expected origin.
ORIGINS = {
    "mmpretrain": (SCALED, to_mmpretrain, "mmpretrain"),
    "mmpretrain's gated": (GATED, to_mmpretrain, "mmpretrain"),
    "timm": (PLAIN, to_timm_classifier, "timm"),
    "timm's DINOv2": (SCALED, to_timm, "timm"),
    "DINOv2": (SCALED, to_dinov2, "dinov2"),
    "DINOv2's giant": (GATED, to_dinov2, "dinov2"),
    "MAE": (PLAIN, to_mae, "timm"),
    "Hugging Face's Dinov2": (SCALED, to_hugging_face, "Hugging Face"),
    "Hugging Face's Dinov2 giant": (GATED, to_hugging_face, "Hugging Face"),
    "Hugging Face's ViT": (PLAIN, to_hugging_face, "Hugging Face"),
}


def load(path, **options):
    encoder = MODELS.build(
        dict(type="MultiTaskViT", tasks=["a"], pretrained=str(path), **{**SCALED, **options})
    )
    encoder.init_weights()
    return encoder


@pytest.mark.parametrize("case", ORIGINS)
def test_every_origin_gives_the_same_model(case, tmp_path, monkeypatch):
    options, write, origin = ORIGINS[case]
    state, messages = random_state(options), []
    torch.save(write(state), tmp_path / "vit.pth")
    monkeypatch.setattr(
        "vmt_mm.models.backbones.pretrained.print_log",
        lambda message, _: messages.append(message),
    )
    own = load(tmp_path / "vit.pth", **{"layer_scale_init_value": 0.0, **options}).state_dict()
    assert own.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(own[key], value), key
    assert f"({origin} keys)" in messages[0]


def test_a_file_of_mmpretrains_own_model_predicts_alike(tmp_path):
    theirs = VisionTransformer(**SCALED, out_type="featmap")
    theirs.eval()
    theirs.init_weights()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "vit.pth")
    images = torch.randn(1, 3, 128, 64)
    with torch.no_grad():
        (expected,) = theirs(images)
        # patches of 8 at stride 32: a cell's centre is the corner shared by its four middle patches
        middle = F.avg_pool2d(expected[..., 1:, 1:], 2, stride=4)
        own = load(tmp_path / "vit.pth").eval()(images)["a"][3]
    torch.testing.assert_close(own, middle)


@pytest.fixture
def log(monkeypatch):
    messages = []
    monkeypatch.setattr(pretrained, "print_log", lambda message, _: messages.append(message))
    return messages


@pytest.mark.parametrize("write", [dict, to_dinov2])
def test_positions_of_another_grid_are_interpolated(write, tmp_path, log):
    state = random_state()
    torch.save(write(state), tmp_path / "vit.pth")
    positions = load(tmp_path / "vit.pth", img_size=(64, 24)).pos_embed
    grid = state["pos_embed"][:, 1:].transpose(1, 2).reshape(1, 8, 5, 5)
    grid = F.interpolate(grid, size=(8, 3), mode="bicubic")
    expected = torch.cat([state["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(positions.data, expected)
    assert log[0].endswith("vit.pth: interpolated pos_embed to the size of the backbone")


def test_a_model_without_class_token_leaves_it_out(tmp_path, log):
    state = random_state()
    torch.save(to_timm(state), tmp_path / "vit.pth")
    encoder = load(tmp_path / "vit.pth", with_cls_token=False)
    assert torch.equal(encoder.pos_embed, state["pos_embed"][:, 1:])
    assert len(log) == 1  # without interpolation


def test_half_precision(tmp_path):
    state = {k: v.half() for k, v in random_state().items()}
    torch.save(state, tmp_path / "vit.pth")
    weight = load(tmp_path / "vit.pth", img_size=32).layers[0].attn.qkv.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["layers.0.attn.qkv.weight"].float())


def drop(state):
    del state["blocks.1.norm1.bias"]


def add_registers(state):
    state["register_tokens"] = torch.zeros(1, 4, 8)


def reshape(state):
    state["patch_embed.proj.weight"] = torch.zeros(8, 3, 4, 4)


def take_away_positions(state):
    state["pos_embed"] = state["pos_embed"][:, :20]


def pool(state):
    """A classifier on pooled patches has no final norm of tokens."""
    for part in ("weight", "bias"):
        state[f"fc_norm.{part}"] = state.pop(f"norm.{part}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop, r"dinov2 keys\): 1 missing key\(s\): layers.1.ln1.bias"),
        (add_registers, r"a DINOv2 with registers of width 8 with 4 blocks; it has keys"),
        (reshape, r"patch_embed.projection.weight \(8, 3, 4, 4\) \(model: \(8, 3, 8, 8\)\)"),
        (take_away_positions, r"pos_embed \(1, 20, 8\) \(model: \(1, 26, 8\)\)"),
        (pool, r"2 missing key\(s\): ln1.bias, ln1.weight"),
        (lambda s: (s.clear(), s.update(a=torch.zeros(1))), "not a ViT checkpoint: it has keys"),
    ],
)
def test_unfit_checkpoints_are_refused(spoil, message, tmp_path):
    state = to_dinov2(random_state())
    spoil(state)
    torch.save(state, tmp_path / "vit.pth")
    with pytest.raises(InputError, match=message):
        load(tmp_path / "vit.pth")


def test_a_model_without_layer_scale_does_not_lose_a_files(tmp_path):
    torch.save(to_timm(random_state()), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"8 unexpected key\(s\): layers.0.attn.gamma1.weight"):
        load(tmp_path / "vit.pth", layer_scale_init_value=0.0)


def test_a_swin_is_not_a_vit():
    swin = {"layers.0.blocks.0.attn.qkv.weight": torch.zeros(1)}
    with pytest.raises(InputError, match="swin.pth is not a ViT checkpoint"):
        vit_origin(swin, "swin.pth")


def test_weights_by_their_name_in_mmpretrains_zoo():
    address = pretrained.locate("mmpretrain://vit-small-p14_dinov2-pre_3rdparty")
    assert address.startswith("https://")
    assert "vit-small-p14_dinov2" in address
    with pytest.raises(InputError, match="'mmpretrain://none': no such weights in the installed"):
        pretrained.locate("mmpretrain://none")
