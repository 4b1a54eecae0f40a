"""Heads equal their unfactored definitions, and any mmseg head can be used instead."""

import pytest
import torch
import torch.nn.functional as F
from methods import scatter
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.models.heads import build_head
from vmt_mm.utils.feature_maps import LazyResize, as_tensor

CHANNELS = (8, 12, 20, 36)


def pyramid(batch=2, size=(13, 10)):
    """Feature maps of an odd-sized image, for which upsampling is not by a factor of two."""
    sizes = [tuple(-(-s // 2**j) for s in size) for j in range(4)]
    return [
        torch.randn(batch, c, *s, requires_grad=True) for c, s in zip(CHANNELS, sizes, strict=True)
    ]


def upsample(maps):
    size = maps[0].shape[2:]
    return [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]


def unfactored_mlp(head, maps):
    scaled = [
        linear(m.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, m.shape[2:])
        for linear, m in zip(head.linears, maps, strict=True)
    ]
    fused = head.fuse(torch.cat(upsample(scaled), dim=1))
    return head.predict(head.dropout(F.relu(head.norm(fused))))


def unfactored_hrnet(head, maps):
    if head.reduce:
        maps = [reduce(m) for reduce, m in zip(head.reduce, maps, strict=True)]
    return head.predict(F.relu(head.norm(head.fuse(torch.cat(upsample(maps), dim=1)))))


def conv(weight, x, bias=None):
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def naive_dpt(head, maps):
    """Upsample first, with a 1x1 convolution after it, as in the paper."""

    def residual(unit, x):
        inner = unit.conv1.bn(conv(unit.conv1.conv.weight, x.relu()))
        return x + unit.conv2.bn(conv(unit.conv2.conv.weight, inner.relu()))

    x = None
    for level in (3, 2, 1, 0):
        first = head.projections[level]
        lateral = conv(
            head.convs[level].weight, conv(first.weight, as_tensor(maps[level]), first.bias)
        )
        if x is None:
            x = lateral
        else:
            size, step = lateral.shape[2:], head.steps[level]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            x = conv(step.weight, x, step.bias) + residual(head.skip_units[level], lateral)
        x = residual(head.fuse_units[level], x)
    x = head.output.bn(conv(head.output.conv.weight, x)).relu()
    return conv(head.predict.weight, head.dropout(x), head.predict.bias)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("cfg", "unfactored"),
    [
        (dict(type="MLPHead", channels=16), unfactored_mlp),
        (dict(type="HRNetHead"), unfactored_hrnet),
        (dict(type="HRNetHead", hidden_ratio=4, widths=(2, 3, 5, 7)), unfactored_hrnet),
    ],
)
def test_factored_equals_unfactored(cfg, unfactored, training):
    head = build_head(cfg, CHANNELS, 5).train(training)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.3)
    maps = pyramid()
    results = []
    for function in (head, lambda m: unfactored(head, m)):
        torch.manual_seed(2)  # the same channels are dropped
        for tensor in [*maps, *head.parameters()]:
            tensor.grad = None
        output = function(maps)
        output.square().mean().backward()
        gradients = [t.grad.clone() for t in [*maps, *head.parameters()]]
        results.append([output.detach(), *gradients])
    for ours, expected in zip(*results, strict=True):
        assert ours.shape == expected.shape
        # a bias before batch normalisation has no effect in training: its gradients are rounding
        assert (ours - expected).norm() <= 1e-5 * expected.norm() + 1e-6


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_dpt_equals_its_equations(lazy, training):
    head = build_head(dict(type="DPTHead", channels=6), CHANNELS, 5).double().train(training)
    scatter(head, 0.2)
    levels, size = [level.detach().double().requires_grad_() for level in pyramid()], (50, 38)
    maps = levels
    if lazy:  # all four on the coarsest grid that is larger than the image
        levels = [torch.randn(2, c, 4, 3).double().requires_grad_() for c in CHANNELS]
        strides = zip(levels, (4, 8, 16, 32), strict=True)
        maps = [LazyResize(grid, (14, 14), stride, size) for grid, stride in strides]
    results, inputs = [], [*levels, *head.parameters()]
    for function in (head, lambda m: naive_dpt(head, m)):
        torch.manual_seed(2)  # the same channels are dropped
        logits = function(maps)
        assert logits.shape == (2, 5, 13, 10)
        results.append([logits, *torch.autograd.grad(logits.square().mean(), inputs)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    assert all(gradient.abs().max() > 0 for gradient in results[0])  # DDP needs all of them


@pytest.mark.parametrize("channels", [0, "6"])
def test_wrong_channels_of_dpt(channels):
    with pytest.raises(InputError, match="DPTHead: `channels` must be at least 1, got"):
        build_head(dict(type="DPTHead", channels=channels), CHANNELS, 5)


def test_parameters_of_dpt():
    d, c = 384, 256
    head = build_head(dict(type="DPTHead", channels=c), (d,) * 4, 7)
    unit = 2 * (9 * c * c + 2 * c)
    projections, convs, steps = 4 * (d * c + c), 4 * 9 * c * c, 3 * (c * c + c)
    expected = projections + convs + steps + 7 * unit + unit // 2 + 7 * c + 7
    assert sum(p.numel() for p in head.parameters()) == expected


def test_parameters_of_the_papers_decoders():
    swin = (96, 192, 384, 768)
    heads = [build_head(dict(type="MLPHead", channels=256), swin, c) for c in (21, 7, 1, 3)]
    assert sum(p.numel() for head in heads for p in head.parameters()) == 2_537_504
    width = sum(swin)
    hrnet = build_head(dict(type="HRNetHead"), swin, 3)
    expected = width * width + width + 2 * width + 3 * width + 3
    assert sum(p.numel() for p in hrnet.parameters()) == expected
    cfg, maps = dict(type="HRNetHead", hidden_ratio=4, widths=(18, 36, 72, 144)), (*swin[1:], 768)
    heads = [build_head(cfg, maps, c) for c in (21, 7, 1, 3)]  # of MTLoRA
    assert sum(p.numel() for head in heads for p in head.parameters()) == 1_946_624
    with pytest.raises(InputError, match="`widths` must have 4 entries, one per map, got"):
        build_head(dict(cfg, widths=(18, 36)), maps, 3)


@pytest.mark.parametrize("out_channels", [1, 3, 7])
@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="SegformerHead", channels=16, norm_cfg=dict(type="BN")),
        dict(type="mmseg.FPNHead", channels=16, feature_strides=[4, 8, 16, 32]),
        dict(type="FCNHead", channels=16, in_index=2, num_convs=1),
    ],
)
def test_mmseg_heads_can_be_used(cfg, out_channels):
    head = build_head(cfg, CHANNELS, out_channels)
    assert isinstance(head, nn.Module)
    assert head(pyramid(size=(16, 16))).shape[:2] == (2, out_channels)
