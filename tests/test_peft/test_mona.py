"""Mona equals its equations on maps and on tokens with a prefix.

No other method of the package uses the grid of the tokens or changes the stream after a sum.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from methods import ENCODERS, TASKS
from naive import layer_norm, run_plain, run_stock

from vmt_mm.analysis.counts import summarize_experiment
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.peft import TokenGrid
from vmt_mm.registry import MODELS
from vmt_mm.utils.feature_maps import tensors_of

ROOT = Path(__file__).parents[2]
SIZE = (61, 83)  # of the images; no multiple of a patch or of a window
#: Backbone -> grid (height, width, prefix) of each block, for images of ``SIZE``.
GRIDS = dict(
    swin=[(16, 21, 0)] * 2 + [(8, 11, 0), (4, 6, 0), (2, 3, 0)],
    vit=[(9, 12, 1)] * 5,
    dinov3=[(9, 12, 5)] * 5,
)


def build(name, **peft):
    """A backbone in float64 whose method has random values, and the original library's."""
    config = dict(ENCODERS[name].config, tasks=list(TASKS), peft=peft)
    encoder = MODELS.build(dict(config, allow_random_backbone=True))
    encoder.init_weights()
    with torch.no_grad():
        for parameter in encoder.peft.parameters():
            parameter.normal_(std=0.3)
    stock = ENCODERS[name].make_stock().double()
    stock.eval()  # returns None in mmseg
    stock.load_state_dict({k: encoder.state_dict()[k] for k in ENCODERS[name].keys})
    return encoder.double().eval(), stock


def mona(module, x, height, width):
    """The update of patches (B, N, d), with one product or convolution per line."""
    p = dict(module.named_parameters())
    z = p["gamma"] * layer_norm(x, p["norm.weight"], p["norm.bias"]) + p["gamma_x"] * x
    h = z @ p["down.weight"].T + p["down.bias"]
    h = h.transpose(1, 2).unflatten(2, (height, width))
    mixed = 0
    for place, side in enumerate((3, 5, 7)):
        weight, bias = p[f"depthwise.{place}.weight"], p[f"depthwise.{place}.bias"]
        padded = F.pad(h, [side // 2] * 4)
        windows = padded.unfold(2, side, 1).unfold(3, side, 1)
        mixed = mixed + torch.einsum("bkhwij,kij->bkhw", windows, weight[:, 0])
        mixed = mixed + bias[:, None, None]
    f = h + mixed / 3
    pointwise = torch.einsum("bkhw,ck->bchw", f, p["pointwise.weight"][:, :, 0, 0])
    f = f + pointwise + p["pointwise.bias"][:, None, None]
    hidden = F.gelu(f).flatten(2).transpose(1, 2)
    return hidden @ p["up.weight"].T + p["up.bias"]


def updates(encoder, name, scale):
    """The stream's change after each sum, and a list of the updates after the MLP."""
    kept = []

    def adapt(index, where, x):
        height, width, prefix = GRIDS[name][index]
        update = mona(encoder.peft.blocks[index][where], x[:, prefix:], height, width)
        if where == "mlp":
            kept.append(update)
        factor = scale if where == "mlp" else 1
        return torch.cat((x[:, :prefix], x[:, prefix:] + factor * update), dim=1)

    return adapt, kept


def run(stock, name, images, adapt):
    """Tokens of the four levels."""
    if name == "swin":
        return [m.flatten(2).transpose(1, 2) for m in run_stock(stock, images, adapt=adapt)]
    none = lambda place: lambda index, x: x if place != "parallel" else 0  # noqa: E731
    return run_plain(stock, images, none, GRIDS[name][0][2], adapt)


@pytest.mark.parametrize("method", ["Mona", "VMTMona"])
@pytest.mark.parametrize("name", [name for name in GRIDS if name in ENCODERS])
def test_the_equations(name, method):
    gate = dict(gate=0.3) if method == "VMTMona" else {}
    encoder, stock = build(name, type=method, hidden=6, **gate)
    images = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    adapt, kept = updates(encoder, name, 0.7 if gate else 1)
    with torch.no_grad():
        features = encoder(images, lazy=True)
        levels, first = run(stock, name, images, adapt), 0
        for stage, level in enumerate(levels):
            last = first + ENCODERS[name].stages.count(stage)
            for task in TASKS:
                expected = level
                for index in range(first, last) if gate else ():
                    block = encoder.peft.blocks[index]
                    expected = expected + block.alpha[task] * 0.3 * kept[index] + block.gamma[task]
                own = tensors_of(features[task][stage])[0].flatten(2).transpose(1, 2)
                assert (own - expected).abs().max() <= 1e-10 * expected.abs().max()
            first = last


def test_class_and_register_tokens_are_unchanged():
    encoder, _ = build("vit", type="Mona", hidden=6)
    x = torch.randn(2, 3 + 4 * 5, 20, dtype=torch.float64)
    side = encoder.peft.after_residual(0, "attn", x, TokenGrid(4, 5, prefix=3))
    assert side.residual[:, :3].abs().max() == 0
    assert side.residual[:, 3:].abs().min(dim=2).values.min() > 0


def test_the_authors_initial_values():
    config = dict(ENCODERS["swin"].config, tasks=list(TASKS), allow_random_backbone=True)
    encoder = MODELS.build(dict(config, peft=dict(type="Mona", zero_init=False)))
    for adapter in (block[place] for block in encoder.peft.blocks for place in ("attn", "mlp")):
        assert torch.equal(adapter.gamma, torch.full_like(adapter.gamma, 1e-6))
        assert torch.equal(adapter.gamma_x, torch.ones_like(adapter.gamma_x))
        bound = adapter.up.in_features**-0.5  # of PyTorch's default
        assert 0.8 * bound < adapter.up.weight.abs().max() <= bound


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ("mona_swin-t_pascal", 2 * (133 * 4416 + 12 * 9728)),
        ("vmt-mona_swin-t_pascal", 2 * (133 * 4416 + 12 * 9728) + 2 * 4 * 4416),
    ],
)
def test_trainable_parameters(config, count):
    (experiment,) = load_experiments([str(ROOT / f"configs/peers/{config}.py")], {})
    assert summarize_experiment(experiment)["encoder_trainable"] == count
    assert 2 * (133 * 4416 + 12 * 9728) == 1_408_128
