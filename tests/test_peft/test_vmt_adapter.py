"""VMT-Adapter equals a naive transliteration of Eqs. 3-5; its parameter counts."""

import pytest
import torch
from naive import apply_mlp, layer_norm, stock_swin, to_maps

from vmt_mm.registry import MODELS

TASKS = ["semseg", "human_parts", "saliency", "normals"]


def build(arch="nano", method="VMTAdapter", **options):
    encoder = MODELS.build(
        dict(
            type="MultiTaskSwin",
            arch=arch,
            tasks=TASKS,
            allow_random_backbone=True,
            peft=dict(type=method, **options),
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


def equation_3(p, y):
    """F = ReLU(LN(y) W_down) W_up, where only W_up has a bias."""
    hidden = layer_norm(y, p["norm.weight"], p["norm.bias"]) @ p["down.weight"].T
    return torch.maximum(hidden, torch.zeros(1)) @ p["up.weight"].T + p["up.bias"]


def equation_6(p, y):
    """F with W_down = sum_i A_i (x) B_down,i and W_up = sum_i A_i (x) B_up,i."""
    w_down = sum(torch.kron(a, b) for a, b in zip(p["shared"], p["down"], strict=True))
    w_up = sum(torch.kron(a, b) for a, b in zip(p["shared"], p["up"], strict=True))
    hidden = y @ w_down + p.get("down_bias", 0)
    return torch.maximum(hidden, torch.zeros(1)) @ w_up + p.get("up_bias", 0)


def naive(encoder, images, s, big_f=equation_3):
    """The paper's method, section by section, on mmseg's original Swin; s: the gate of a block."""
    state = encoder.state_dict()
    stock = stock_swin(encoder)
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
            of_block = big_f(p, y)
            gate = s(number)
            for t in TASKS:
                extra[t] = extra[t] + p[f"alpha.{t}"] * (gate * of_block) + p[f"gamma.{t}"]
            x = y + apply_mlp(block, y) + (1 - gate) * of_block
            number += 1
        normed = getattr(stock, f"norm{j}")(x)
        for t in TASKS:
            features[t].append(to_maps(normed + extra[t], hw))
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


@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize(("m", "ratio"), [(1, 4), (2, 1), (5, 2), (5, 4)])
def test_equation_6(m, ratio, biases):
    options = dict(m=m, ratio=ratio, gate=0.3, down_bias=biases, up_bias=biases)
    encoder = randomized(build(method="VMTAdapterLite", **options))
    images = torch.randn(1, 3, 40, 44, dtype=torch.float64)
    with torch.no_grad():
        features, expected = encoder(images), naive(encoder, images, lambda _: 0.3, equation_6)
    for task in TASKS:
        for own, theirs in zip(features[task], expected[task], strict=True):
            assert (own - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@pytest.mark.parametrize(("m", "expected"), [(3, 395_076), (6, 217_632), (12, 145_920)])
def test_parameters_of_lite_in_table_3(m, expected):
    encoder = build("tiny", "VMTAdapterLite", m=m)
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == expected


def test_lites_down_projection_starts_as_wide_as_a_relu_layers():
    ratios = []
    for block in build("tiny", "VMTAdapterLite", m=3).peft.blocks:
        weight = sum(torch.kron(a, b) for a, b in zip(block.shared, block.down, strict=True))
        ratios.append(weight.std() / (2 / len(weight)) ** 0.5)
    assert torch.stack(ratios).mean().item() == pytest.approx(1, rel=0.15)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_tasks_at_once_equal_single_tasks(dtype):
    encoder = randomized(build(ratio=1)).float().eval()
    images = torch.randn(2, 3, 50, 36)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        together = encoder(images)
        for task, levels in together.items():
            for own, level in zip(encoder(images, [task])[task], levels, strict=True):
                assert torch.equal(own, level)
                assert own.dtype == level.dtype
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
        for task, levels in encoder(images).items():  # with gradients
            assert all(map(torch.equal, levels, together[task]))
