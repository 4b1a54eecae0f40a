"""A feature map that is given on another grid than its own.

Letters: B images, C channels, D channels of a projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.utils.compat import take_first


@dataclass(frozen=True)
class LazyResize:
    """A grid of patches that stands for its bilinear samples at the centres of cells.

    A 1x1 convolution acts on channels and the resampling on pixels, so they commute: heads that
    begin with one apply it to the small grid, and no map of all channels at the cells' resolution
    comes to be.

    The grid may reach beyond the image, as it is padded to a multiple of the patch; so the two
    sizes are matched in pixels. Fitting the grid's borders to the map's would shift the features.

    Attributes:
        grid: (B, C, h, w).
        patch: height and width of a patch, pixels.
        stride: side of a cell, pixels.
        size: of the image (H, W), pixels.
    """

    grid: Tensor
    patch: tuple[int, int]
    stride: int
    size: tuple[int, int]

    def project(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """1x1 convolution by weight (D, C) and bias (D,): (B, D, ceil(H / s), ceil(W / s))."""
        return replace(self, grid=F.conv2d(self.grid, weight[:, :, None, None], bias)).tensor()

    def tensor(self) -> Tensor:
        """The samples, (B, C, ceil(H / s), ceil(W / s)), s the stride."""
        # not -(-a // b): in ONNX a quotient of negative numbers is cut towards 0
        height, width = ((side + self.stride - 1) // self.stride for side in self.size)
        # where a cell's centre lies beyond the last patch's, it takes that patch's value
        beyond = [-(-self.stride // side) for side in self.patch]
        grid = F.pad(self.grid, (0, beyond[1], 0, beyond[0]), mode="replicate")
        grid = grid.contiguous(memory_format=torch.channels_last)  # resampled ten times as fast
        scale = tuple(side / self.stride for side in self.patch)
        cells = F.interpolate(grid, scale_factor=scale, mode="bilinear", align_corners=False)
        return take_first(take_first(cells, 2, height), 3, width)


#: A map, or what stands for one.
Map = Tensor | LazyResize


def values_of(x: Map) -> Tensor:
    """The tensor that a map is computed from."""
    return x.grid if isinstance(x, LazyResize) else x


def with_values(x: Map, values: Tensor) -> Map:
    """A map like ``x`` of other values."""
    return replace(x, grid=values) if isinstance(x, LazyResize) else values


def project(x: Map, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of a map by weight (D, C) and bias (D,)."""
    if isinstance(x, LazyResize):
        return x.project(weight, bias)
    return F.conv2d(x, weight[:, :, None, None], bias)


def materialise(x: Map) -> Tensor:
    """The map itself."""
    return x.tensor() if isinstance(x, LazyResize) else x
