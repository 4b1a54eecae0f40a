"""Heads that fuse four maps by one linear map, without the wide map that defines it.

A 1x1 convolution acts on channels and bilinear upsampling on pixels, so they commute. Where a head
upsamples all maps to 1/4, concatenates them and applies a 1x1 convolution, each map is convolved
with its own columns at its own resolution, upsampled and added: the same function with a fraction
of the arithmetic, and no map of all channels at stride 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from vmt_mm.models.lazy_resize import Map, project
from vmt_mm.registry import MODELS


def fuse_pyramid(maps: Sequence[Map], weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """Fuse maps (B, C_j, H_j, W_j), finest first, by columns (D, C_j): (B, D, H_0, W_0)."""
    first, *coarser = (
        project(x, w, bias if j == 0 else None)
        for j, (x, w) in enumerate(zip(maps, weights, strict=True))
    )
    size = (first.shape[2], first.shape[3])  # a slice of the shape would be a constant to tracers
    for level in coarser:
        # in place: the backward pass needs no earlier values of the sum
        first += F.interpolate(level, size=size, mode="bilinear", align_corners=False)
    return first


@MODELS.register_module()
class HRNetHead(BaseModule):
    """Upsampling to 1/4, concatenation, 1x1 of the same width, BN, ReLU, 1x1.

    HRNetV2, https://arxiv.org/abs/1908.07919, its representation head for dense prediction. The
    arguments are those of :class:`MLPHead`.
    """

    #: Takes ``LazyResize`` maps.
    accepts_lazy = True

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels, width = tuple(in_channels), sum(in_channels)
        self.fuse = nn.Conv2d(width, width, 1)
        self.norm = build_norm_layer(norm_cfg or dict(type="BN"), width)[1]
        self.predict = nn.Conv2d(width, out_channels, 1)

    def forward(self, maps: Sequence[Map]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        weights = self.fuse.weight.flatten(1).split(self.in_channels, dim=1)
        x = fuse_pyramid(maps, weights, self.fuse.bias)
        return self.predict(F.relu(self.norm(x), inplace=True))


@MODELS.register_module()
class MLPHead(BaseModule):
    """Per-scale Linear, upsampling to 1/4, concatenation, 1x1, BN, ReLU, dropout, 1x1.

    SegFormer, https://arxiv.org/abs/2105.15203, section 3.2, without norm or activation per scale.
    Everything before BN is linear: the fusion's columns are multiplied into each scale's Linear,
    which is exactly the same function of the same parameters. ``channels`` is D, the head's width.
    """

    #: Takes ``LazyResize`` maps.
    accepts_lazy = True

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 256,
        dropout_ratio: float = 0.1,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.linears = nn.ModuleList(nn.Linear(c, channels) for c in in_channels)
        self.fuse = nn.Conv2d(len(in_channels) * channels, channels, 1, bias=False)
        self.norm = build_norm_layer(norm_cfg or dict(type="BN"), channels)[1]
        self.dropout = nn.Dropout2d(dropout_ratio)
        self.predict = nn.Conv2d(channels, out_channels, 1)

    def forward(self, maps: Sequence[Map]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        columns = self.fuse.weight.flatten(1).chunk(len(self.linears), dim=1)  # each (D, D)
        pairs: list[Any] = list(zip(columns, self.linears, strict=True))
        # upsampling leaves constants alone, so the biases of all scales add up to one
        bias: Any = sum(f @ linear.bias for f, linear in pairs)
        x = fuse_pyramid(maps, [f @ linear.weight for f, linear in pairs], bias)
        return self.predict(self.dropout(F.relu(self.norm(x), inplace=True)))
