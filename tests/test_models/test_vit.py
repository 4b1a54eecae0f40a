"""The ViT backbone equals mmpretrain's, stays frozen, and outputs what it declares."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from methods import VIT, Probe, build_model
from mmengine.logging import MMLogger
from mmpretrain.models import VisionTransformer

from vmt_mm.analysis.counts import count_parameters
from vmt_mm.errors import InputError
from vmt_mm.models.backbones import vit
from vmt_mm.registry import MODELS
from vmt_mm.utils.feature_maps import LazyResize

TASKS = ["semseg", "normals"]
SMALL = dict(
    arch=dict(embed_dims=20, num_layers=8, num_heads=2, feedforward_channels=40),
    img_size=70,
    patch_size=14,
    layer_scale_init_value=0.5,
)
VIT_S14 = dict(arch="dinov2-small", img_size=518, patch_size=14, layer_scale_init_value=1e-5)
#: Path where the configs expect the weights.
WEIGHTS = Path(__file__).parents[2] / "pretrain" / "dinov2_vits14_pretrain.pth"


def build(**options):
    cfg = dict(type="MultiTaskViT", tasks=TASKS, allow_random_backbone=True, **SMALL)
    encoder = MODELS.build({**cfg, "peft": dict(type="VMTAdapter"), **options})
    encoder.init_weights()
    return encoder


def make_stock(options, taps):
    """mmpretrain's original, with random weights, so that a wrong use of any is visible."""
    stock = VisionTransformer(**options, out_indices=list(taps), out_type="raw")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    stock.eval()  # returns None in mmpretrain
    return stock


def sample_naively(grid, patch, stride, size):
    """Values of the grid at the cells' centres, by pixel coordinates."""
    centres = [(torch.arange(-(-side // stride)) + 0.5) * stride for side in size]
    y, x = (
        2 * c.to(grid) / (n * p) - 1 for c, n, p in zip(centres, grid.shape[2:], patch, strict=True)
    )  # -1..1 spans the outer borders of the first and last patch
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(len(grid), -1, -1, -1)
    return F.grid_sample(grid, points, padding_mode="border", align_corners=False)


def expect_maps(stock, images, extra=1):
    """mmpretrain's tokens after the final norm, as grids resampled to every stride."""
    levels = list(stock(images))
    patch = stock.patch_embed.projection.stride
    grid = [-(-side // p) for side, p in zip(images.shape[2:], patch, strict=True)]
    normed = [
        *(stock.ln1(tokens) for tokens in levels[:-1]),
        levels[-1],
    ]  # its last output is already normalised
    return [
        sample_naively(
            tokens[:, extra:].transpose(1, 2).unflatten(2, grid), patch, stride, images.shape[2:]
        )
        for tokens, stride in zip(normed, (4, 8, 16, 32), strict=True)
    ]


def check_start(encoder, stock, images, extra=1):
    with torch.no_grad():
        expected, features = expect_maps(stock, images, extra), encoder.eval()(images)
    assert list(features) == TASKS
    for maps in features.values():
        for level, (own, theirs) in enumerate(zip(maps, expected, strict=True)):
            sides = [-(-side // encoder.strides[level]) for side in images.shape[2:]]
            assert own.shape == (len(images), encoder.out_channels[level], *sides)
            assert (own - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("size", [(224, 224), (518, 518), (150, 97), (9, 33)])
@pytest.mark.parametrize("peft", ["VMTAdapter", "DecodersOnly", "FullFineTuning"])
def test_start_equals_mmpretrain(size, peft):
    stock = make_stock(SMALL, (1, 3, 5, 7))
    encoder = build(peft=dict(type=peft))
    missing, unknown = encoder.load_state_dict(stock.state_dict(), strict=False)
    assert not unknown
    assert all(key.startswith("peft.") for key in missing)
    check_start(encoder, stock, torch.randn(1, 3, *size))


@pytest.mark.parametrize(
    ("options", "taps"),
    [
        (dict(with_cls_token=False), (1, 3, 5, 7)),
        (dict(layer_scale_init_value=0.0, patch_size=16, img_size=64), (1, 3, 5, 7)),
        (dict(layer_cfgs=dict(ffn_type="swiglu_fused")), (1, 3, 5, 7)),
        (dict(pre_norm=True, patch_size=(7, 10)), (0, 2, 3, 7)),
    ],
)
def test_start_equals_mmpretrains_other_settings(options, taps):
    stock = make_stock({**SMALL, **options}, taps)
    peft = dict(type="LoRA", targets=("q", "proj", "fc1", "fc2"))
    encoder = build(**options, out_indices=taps, peft=peft)
    encoder.load_state_dict(stock.state_dict(), strict=False)
    check_start(encoder, stock, torch.randn(2, 3, 60, 51), extra=stock.num_extra_tokens)


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no weights in {WEIGHTS.name}")
@pytest.mark.parametrize("size", [(224, 224), (518, 518), (180, 320)])
def test_start_equals_mmpretrain_with_pretrained_weights(size):
    encoder = build(**VIT_S14, pretrained=str(WEIGHTS), allow_random_backbone=False)
    stock = make_stock(VIT_S14, (2, 5, 8, 11))
    stock.load_state_dict(
        {k: v for k, v in encoder.state_dict().items() if k not in encoder.added_keys}
    )
    check_start(encoder, stock, torch.randn(1, 3, *size))


class ProbeOfTasks(Probe):
    """Also uses what the blocks of a stage keep."""

    def task_features(self, stage, feature, kept, tasks, grid):
        assert len(kept) == 2
        return dict.fromkeys(tasks, feature * sum(kept))


def attend(layer, x):
    """Attention by definition, then LayerScale."""
    attn, (batch, length, width) = layer.attn, x.shape
    qkv = (x @ attn.qkv.weight.T + attn.qkv.bias).reshape(batch, length, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(batch, length, width)
    return (out @ attn.proj.weight.T + attn.proj.bias) * attn.gamma1.weight


def test_where_a_method_acts():
    """Hooks act after LayerScale and before the residual sum; decoders only get patch tokens."""
    stock = make_stock(SMALL, (7,)).double()
    encoder = build(peft=dict(type=ProbeOfTasks)).double().eval()
    encoder.load_state_dict(stock.state_dict())
    images = torch.randn(2, 3, 70, 70, dtype=torch.float64)
    probe = Probe()
    with torch.no_grad():
        patches = stock.patch_embed.projection(images).flatten(2).transpose(1, 2)
        x = torch.cat([stock.cls_token.repeat(2, 1, 1), patches], dim=1) + stock.pos_embed
        kept, levels = [], []
        for index, layer in enumerate(stock.layers):
            y = x + probe.after_attn(index, attend(layer, layer.ln1(x)), None)
            mlp = layer.ffn.layers(layer.ln2(y)) * layer.ffn.gamma2.weight
            x = y + probe.after_mlp(index, mlp, None) + y.sin()
            kept.append((y.cos() * (index + 1))[:, 1:])
            if index % 2:
                feature = stock.ln1(x)[:, 1:] * (kept[-1] + kept[-2])
                levels.append(feature.transpose(1, 2).unflatten(2, (5, 5)))
        features = encoder(images)
    for task in TASKS:
        for own, grid, stride in zip(features[task], levels, (4, 8, 16, 32), strict=True):
            torch.testing.assert_close(own, sample_naively(grid, (14, 14), stride, (70, 70)))


@pytest.mark.parametrize(("patch", "size"), [(14, 100), (16, 96), (7, 61)])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_resampled_features_stay_where_they_are_in_the_image(patch, size, stride):
    grid = -(-size // patch)
    ramp = ((torch.arange(grid) + 0.5) * patch).expand(1, 1, grid, grid)  # each patch's centre
    cells = LazyResize(ramp, (patch, patch), stride, (size, size)).tensor()
    sides = -(-size // stride)
    assert cells.shape == (1, 1, sides, sides)
    centres = (torch.arange(sides) + 0.5) * stride
    # beyond the outermost patches' centres, values are constant
    expected = centres.clamp(patch / 2, (grid - 0.5) * patch)
    torch.testing.assert_close(cells, expected.expand(1, 1, sides, sides))


def test_tasks_with_the_same_tokens_share_their_maps():
    features = build(peft=dict(type="Adapter"))(torch.randn(1, 3, 40, 40))
    assert all(a is b for a, b in zip(*(features[task] for task in TASKS), strict=True))
    features = build()(torch.randn(1, 3, 40, 40))
    assert not any(a is b for a, b in zip(*(features[task] for task in TASKS), strict=True))


def test_parameters_outside_the_blocks_are_the_backbones():
    rows = count_parameters(build_model(dict(type="FullFineTuning"), on=VIT))
    # patch embedding, class token, positions, 5 blocks, final norm; d = 20
    count = 20 * (3 * 7**2 + 1) + 20 + 20 * (8**2 + 1) + 5 * 5_100 + 2 * 20
    assert rows["encoder"] == (count, count)
    assert rows["output norms"] == (0, 0)
    rows = count_parameters(build_model(dict(type="BitFit"), on=VIT))
    assert rows["encoder"] == (20 + 5 * 220 + 20, count)


def test_frozen_modules_stay_in_eval_mode():
    encoder = build(drop_path_rate=0.2, drop_rate=0.1).train()
    assert not any(module.training for module in encoder.layers.modules())
    assert encoder.peft.blocks[0].up.training
    full = build(peft=dict(type="FullFineTuning"), drop_path_rate=0.2).train()
    assert full.layers[1].attn.out_drop.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(arch="giant"), "Arch giant is not in default archs .*'dinov2-small'"),
        (dict(arch=dict(embed_dims=20)), "needs a dict with keys .*'feedforward_channels'"),
        (
            dict(arch={**SMALL["arch"], "num_layers": 6}),
            "must be 4 increasing indices of the 6 blocks.* got None",
        ),
        (dict(out_indices=(1, 3, 5)), r"`out_indices` must be 4 increasing .* 7, got \(1, 3, 5\)"),
        (dict(out_indices=7), "`out_indices` must be 4 increasing .* the last one 7, got 7"),
        (dict(out_indices="1357"), "`out_indices` must be 4 increasing .* got '1357'"),
        (dict(out_indices=(1, 3, 3, 7)), "`out_indices` must be 4 increasing"),
        (dict(out_indices=(1, 3, 5, 6)), "`out_indices` must be 4 increasing .* the last one 7"),
        (dict(out_indices=(-9, 3, 5, 7)), "`out_indices` must be 4 increasing"),
        (dict(out_type="raw"), "MultiTaskViT: unknown argument 'out_type'"),
        (dict(final_norm=False), "MultiTaskViT: unknown argument 'final_norm'"),
        (dict(tasks=[]), "list of distinct names"),
        (dict(peft=dict(type="VMTAdapter", ratio=7)), "divides the channels of every block"),
        (dict(allow_random_backbone=False), "no pretrained weights"),
    ],
)
def test_wrong_settings_are_one_message(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_initial_values_are_set_without_a_word(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), "info", lines.append)
    build()
    assert lines == []


def test_indices_may_count_from_the_end():
    assert build(out_indices=(1, -5, -3, -1)).out_indices == [1, 3, 5, 7]


def test_without_mmpretrain_the_message_says_so(monkeypatch):
    monkeypatch.setattr(vit, "MISSING", ModuleNotFoundError("No module named 'mmpretrain'"))
    with pytest.raises(InputError, match="needs mmpretrain, install it: No module named"):
        build()
