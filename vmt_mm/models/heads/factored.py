"""Heads that fuse four feature maps with one 1x1 convolution, without concatenating them.

A 1x1 convolution acts on channels and bilinear upsampling on pixels, so they commute. Instead of
upsampling all maps to stride 4, concatenating and convolving them, each map is convolved with its
columns of the weight at its own resolution, upsampled and added. The function is the same, with a
fraction of the FLOPs.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.utils.feature_maps import Map, project


def fuse_pyramid(maps: Sequence[Map], weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """Fuse maps (B, C_j, H_j, W_j), finest first, by weights (D, C_j) to (B, D, H_0, W_0)."""
    first, *coarser = (
        project(x, w, bias if j == 0 else None)
        for j, (x, w) in enumerate(zip(maps, weights, strict=True))
    )
    size = (first.shape[2], first.shape[3])  # a slice of the shape would be a constant to tracers
    for level in coarser:
        # in place: the backward pass does not need partial sums
        first += F.interpolate(level, size=size, mode="bilinear", align_corners=False)
    return first


@MODELS.register_module()
class HRNetHead(BaseModule):
    """HRNetV2 head: upsample to the finest map, concatenate, 1x1 conv, norm, ReLU, 1x1.

    https://arxiv.org/abs/1908.07919. Maps (B, C_j, H_j, W_j), finest first, to logits
    (B, out_channels, H_0, W_0).

    Args:
        hidden_ratio: output channels of the first 1x1 per channel of the concatenated maps.
        widths: channels to which a 1x1 without bias first reduces each map; None leaves them.
            MTLoRA has (18, 36, 72, 144), with a ``hidden_ratio`` of 4.
        norm_cfg: None means batch normalisation.
    """

    #: The head accepts ``LazyResize`` maps.
    accepts_lazy = True

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        hidden_ratio: int = 1,
        widths: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.widths = tuple(in_channels if widths is None else widths)
        if len(self.widths) != len(in_channels):
            problem = f"`widths` must have {len(in_channels)} entries, one per map, got {widths!r}"
            raise InputError(f"HRNetHead: {problem}")
        pairs = zip(in_channels, widths or (), strict=widths is not None)
        self.reduce = nn.ModuleList(nn.Conv2d(c, w, 1, bias=False) for c, w in pairs)
        width = hidden_ratio * sum(self.widths)
        self.fuse = nn.Conv2d(sum(self.widths), width, 1)
        self.norm = build_norm_layer(norm_cfg or dict(type="BN"), width)[1]
        self.predict = nn.Conv2d(width, out_channels, 1)

    def forward(self, maps: Sequence[Map]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        if self.reduce:
            pairs: Any = zip(maps, self.reduce, strict=True)
            maps = [project(x, conv.weight.flatten(1), None) for x, conv in pairs]
        weights = self.fuse.weight.flatten(1).split(self.widths, dim=1)
        x = fuse_pyramid(maps, weights, self.fuse.bias)
        return self.predict(F.relu(self.norm(x), inplace=True))


@MODELS.register_module()
class MLPHead(BaseModule):
    """SegFormer head: linear per map, upsample, concatenate, 1x1 conv, norm, ReLU, dropout, 1x1.

    https://arxiv.org/abs/2105.15203, section 3.2, without norm or activation per map. Shapes and
    ``norm_cfg`` as in :class:`HRNetHead`; ``channels`` is the width D. Everything before the norm
    is linear, so the 1x1 weight is multiplied into each linear layer: exactly the same function.
    """

    #: The head accepts ``LazyResize`` maps.
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
        # upsampling keeps constants, so the biases of all maps add up to one
        bias: Any = sum(f @ linear.bias for f, linear in pairs)
        x = fuse_pyramid(maps, [f @ linear.weight for f, linear in pairs], bias)
        return self.predict(self.dropout(F.relu(self.norm(x), inplace=True)))
