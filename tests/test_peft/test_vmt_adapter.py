"""VMT-Adapter against a naive transliteration of Eqs. 3-5, and its parameter counts."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.models.backbones import SwinTransformer

from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.registry import MODELS

TASKS = ["semseg", "human_parts", "saliency", "normals"]


def build(arch="nano", **options):
    encoder = MODELS.build(
        dict(
            type="MultiTaskSwin",
            arch=arch,
            tasks=TASKS,
            allow_random_backbone=True,
            peft=dict(type="VMTAdapter", **options),
        )
    )
    encoder.init_weights()
    return encoder


def randomized(encoder):
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if not name.endswith("gate_logit"):
                parameter.normal_(std=0.3)
    return encoder.double().eval()


def naive(encoder, images, s):
    """Section by section what the paper says, on mmseg's own Swin; s: the gate of a block."""
    stock = SwinTransformer(**ARCHITECTURES["nano"]).double()
    stock.eval()  # returns None in mmseg
    state = encoder.state_dict()
    stock.load_state_dict({k: v for k, v in state.items() if not k.startswith("peft.")})
    features = {t: [] for t in TASKS}
    x, hw = stock.patch_embed(images)
    number = 0
    for j, stage in enumerate(stock.stages):
        extra = dict.fromkeys(TASKS, 0)
        for block in stage.blocks:
            p = {
                k.split(f"peft.blocks.{number}.")[1]: v
                for k, v in state.items()
                if k.startswith(f"peft.blocks.{number}.")
            }
            y = x + block.attn(block.norm1(x), hw)
            normed = (y - y.mean(-1, keepdim=True)) / torch.sqrt(
                y.var(-1, unbiased=False, keepdim=True) + 1e-5
            )
            normed = normed * p["norm.weight"] + p["norm.bias"]
            hidden = normed @ p["down.weight"].T
            big_f = torch.maximum(hidden, torch.zeros(1)) @ p["up.weight"].T + p["up.bias"]
            gate = s(number)
            for t in TASKS:
                extra[t] = extra[t] + p[f"alpha.{t}"] * (gate * big_f) + p[f"gamma.{t}"]
            first, second = block.ffn.layers[0][0], block.ffn.layers[1]
            z = block.norm2(y)
            mlp = F.gelu(z @ first.weight.T + first.bias) @ second.weight.T + second.bias
            x = y + mlp + (1 - gate) * big_f
            number += 1
        normed = getattr(stock, f"norm{j}")(x)
        for t in TASKS:
            maps = (normed + extra[t]).reshape(len(images), *hw, -1).permute(0, 3, 1, 2)
            features[t].append(maps)
        if stage.downsample is not None:
            x, hw = stage.downsample(x, hw)
    return features


@pytest.mark.parametrize("s", [0, 0.3, 1])
def test_equations_3_to_5(s):
    encoder = randomized(build(gate=s))
    images = torch.randn(2, 3, 60, 44, dtype=torch.float64)
    with torch.no_grad():
        features, expected = encoder(images), naive(encoder, images, lambda _: s)
    for task in TASKS:
        for own, theirs in zip(features[task], expected[task], strict=True):
            assert (own - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def test_learnable_gate_is_a_sigmoid_per_block():
    encoder = randomized(build(gate=0.3, learnable_gate=True))
    logits = [block.gate_logit for block in encoder.peft.blocks]
    torch.testing.assert_close(logits[0].sigmoid(), torch.tensor(0.3).double())
    with torch.no_grad():
        for i, logit in enumerate(logits):
            logit.fill_(0.2 * i - 0.5)
        images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
        features = encoder(images)
        expected = naive(encoder, images, lambda i: logits[i].sigmoid())
    for own, theirs in zip(features["normals"], expected["normals"], strict=True):
        assert (own - theirs).abs().max() <= 1e-10 * theirs.abs().max()


def test_a_tasks_scale_changes_no_other_task():
    encoder = randomized(build())
    images = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        before = encoder(images)
        for block in encoder.peft.blocks:
            block.alpha["saliency"].add_(1)
            block.gamma["saliency"].sub_(1)
        after = encoder(images)
    for task in TASKS:
        same = [torch.equal(a, b) for a, b in zip(before[task], after[task], strict=True)]
        assert same == [task != "saliency"] * 4


@pytest.mark.parametrize(
    ("ratio", "expected"), [(1, 4_361_664), (2, 2_205_120), (4, 1_126_848), (8, 587_712)]
)
def test_parameters_of_table_3(ratio, expected):
    encoder = build("tiny", ratio=ratio)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == expected
    frozen = [p.numel() for n, p in encoder.named_parameters() if not p.requires_grad]
    assert sum(frozen) == 27_517_818 + 2_880


@pytest.mark.parametrize(
    ("options", "per_block"),
    [
        (dict(norm=False), lambda d, k: 2 * d * k + d),
        (dict(up_bias=False), lambda d, k: 2 * d + 2 * d * k),
        (dict(down_bias=True), lambda d, k: 2 * d + 2 * d * k + d + k),
        (dict(learnable_gate=True), lambda d, k: 2 * d + 2 * d * k + d + 1),
    ],
)
def test_parameters_of_the_options(options, per_block):
    encoder = build(**options)
    widths = [20, 20, 40, 40, 80, 80, 160, 160]
    expected = sum(per_block(d, d // 4) + 2 * len(TASKS) * d for d in widths)
    assert sum(p.numel() for p in encoder.peft.parameters()) == expected
