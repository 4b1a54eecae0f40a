"""SideVMT: its equations, and that the backbone gets no gradient and keeps no activations.

The contract table has its counts, start and tasks; test_feature_cache.py has kept maps.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from methods import SWIN, TASKS, VIT, build_model
from torch.autograd.graph import saved_tensors_hooks

from vmt_mm.errors import InputError

SIDE = dict(type="SideVMT", ratio=4, prior=4)


def build(on, peft=SIDE):
    """A model in float64 whose branch has random values everywhere."""
    torch.manual_seed(0)
    model = build_model(peft, on=on).double()
    with torch.no_grad():
        for parameter in model.backbone.peft.parameters():
            parameter.normal_(std=0.3)
    return model


def layer_norm(layer, x):
    """LN over the channels of (B, C, H, W)."""
    centred = x - x.mean(1, keepdim=True)
    x = centred / (centred.pow(2).mean(1, keepdim=True) + layer.eps).sqrt()
    return layer.weight[:, None, None] * x + layer.bias[:, None, None]


def linear(layer, x):
    return torch.einsum("dc,bchw->bdhw", layer.weight, x) + layer.bias[:, None, None]


def mix(layer, z, kernel):
    inner = linear(layer.inner, layer_norm(layer.norm, z))
    weight, half = layer.depthwise.weight, kernel // 2
    padded = F.pad(inner, [half] * 4)
    height, width = inner.shape[2:]
    total = sum(
        weight[:, 0, i, j, None, None] * padded[:, :, i : i + height, j : j + width]
        for i in range(kernel)
        for j in range(kernel)
    )
    total = total + layer.depthwise.bias[:, None, None]
    gelu = total * 0.5 * (1 + torch.erf(total / 2**0.5))
    return z + linear(layer.outer, gelu)


def naive(backbone, images, up):
    """The features of every task; ``up(level, x)`` resamples the branch's cells to a map."""
    method, frozen = backbone.peft, backbone.frozen_maps(images)
    cells = [getattr(x, "grid", x) for x in frozen]
    states, z = [], None
    for stage, h in zip(method.stages, cells, strict=True):
        gate = 2 / (1 + torch.exp(-stage.gate_logit))
        added = gate * linear(stage.down, layer_norm(stage.norm, h))
        if z is None:
            z = added
        elif stage.merge is None:
            z = z + added
        else:  # 2 x 2 cells, zeros beyond the map
            z = F.pad(z, (0, z.shape[3] % 2, 0, z.shape[2] % 2))
            four = z.unfold(2, 2, 2).unfold(3, 2, 2)
            merged = torch.einsum("ocij,bchwij->bohw", stage.merge.weight, four)
            z = merged + stage.merge.bias[:, None, None] + added
        z = mix(stage.mixing, z, 5)
        states.append(z)
    x, priors = images, []
    for conv, norm in zip(method.prior.convs, method.prior.norms, strict=True):
        x = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        x = F.gelu(layer_norm(norm, x))
        priors.append(x)
    features = {task: [] for task in TASKS}
    for level, (stage, state) in enumerate(zip(method.stages, states, strict=True)):
        e, stride = up(level, state), backbone.strides[level]
        if stride < 16:
            top = up(level, linear(stage.from_top, states[-1]))
            prior = priors[{4: 1, 8: 2}[stride]]
            e = mix(stage.fusion, e + top + linear(stage.from_prior, prior), 3)
        base = getattr(frozen[level], "tensor", lambda x=frozen[level]: x)()
        for task, own in features.items():
            scaled = stage.alpha[task][:, None, None] * e + stage.beta[task][:, None, None]
            own.append(base + linear(stage.up, scaled))
    return features


def upsample(images, strides=(4, 8, 16, 32)):
    """Swin: bilinear resampling to the size of the map."""

    def up(level, x):
        size = [-(-side // strides[level]) for side in images.shape[2:]]
        return F.interpolate(x, size=size, mode="bilinear") if list(x.shape[2:]) != size else x

    return up


def from_patches(images):
    """ViT: bilinear resampling between the centres of patches of 7 pixels."""

    def up(level, x):
        stride = (4, 8, 16, 32)[level]

        def weights(side, cells):
            centres = (torch.arange(-(-side // stride)).double() + 0.5) * stride / 7 - 0.5
            centres = centres.clamp(0, cells - 1)
            distance = (centres[:, None] - torch.arange(cells)).abs()
            return (1 - distance).clamp(min=0)

        rows, columns = (weights(s, n) for s, n in zip(images.shape[2:], x.shape[2:], strict=True))
        return rows @ x @ columns.T

    return up


#: Strides 8, 16, 32, 32, of which only the first reads the image.
MERGED = replace(SWIN, config={**SWIN.config, "taps": "merged"})
MERGED_UP = partial(upsample, strides=(8, 16, 32, 32))


@pytest.mark.parametrize(
    ("on", "up"),
    [(SWIN, upsample), (VIT, from_patches), (MERGED, MERGED_UP)],
    ids=["swin", "vit", "merged"],
)
def test_equations(on, up):
    model, images = build(on).eval(), torch.randn(2, 3, 44, 60).double()
    expected = naive(model.backbone, images, up(images))
    features, logits = model.backbone(images), model.logits(images)
    for task, levels in expected.items():
        for found, level in zip(features[task], levels, strict=True):
            torch.testing.assert_close(found, level, rtol=0, atol=1e-10)
        torch.testing.assert_close(logits[task], model.heads[task](levels), rtol=0, atol=1e-10)


@pytest.mark.parametrize("on", [SWIN, VIT], ids=["swin", "vit"])
def test_the_backbone_keeps_nothing(on):
    """No activation of a block is saved for the backward pass, in training mode."""
    model, inside, saved = build(on).train(), [False], []

    def enter(*_):
        inside[0] = True

    def leave(*_):
        inside[0] = False

    for name in on.blocks:
        block = model.backbone.get_submodule(f"{name}.{on.layers['norm1']}")
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    images = torch.randn(2, 3, 44, 60).double()
    pack = lambda x: saved.append(inside[0]) or x  # noqa: E731
    with saved_tensors_hooks(pack, lambda x: x):
        loss = sum(x.square().mean() for x in model(images).values())
    loss.backward()
    assert saved and not any(saved)
    own = {n for n, p in model.backbone.named_parameters() if p.grad is not None}
    assert own == {n for n, _ in model.backbone.named_parameters() if n.startswith("peft.")}


def test_unfreezing_needs_a_gradient_in_the_backbone():
    with pytest.raises(InputError, match="SideVMT sends no gradient into the backbone; remove"):
        build_model(dict(SIDE, unfreeze=["norm"]))
    model = build_model(dict(type="DecodersOnly", unfreeze=["norm"]))
    sum(x.sum() for x in model(torch.randn(1, 3, 32, 32)).values()).backward()
    trained = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained and all(p.grad is not None for p in trained.values())


@pytest.mark.parametrize("setting", [dict(ratio=3), dict(ratio=0), dict(prior=0), dict(prior="4")])
def test_refused(setting):
    with pytest.raises(InputError, match=f"SideVMT: `{[*setting][0]}` must be a positive integer"):
        build_model(SIDE | setting)
