"""Feature maps (B, C, H, W) that are resampled only when needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.utils.compat import take_first


@dataclass(frozen=True)
class LazyResize:
    """Feature map on a patch ``grid`` (B, C, h, w), to be resampled bilinearly to a stride.

    Heads apply their first 1x1 convolution to the small grid, see :func:`project`: it commutes with
    resampling. The grid may extend beyond the image, so sizes are in pixels: ``patch`` is (height,
    width) of a patch, ``stride`` that of the resampled map, and ``size`` (H, W) of the image.
    """

    grid: Tensor
    patch: tuple[int, int]
    stride: int
    size: tuple[int, int]

    def tensor(self) -> Tensor:
        """Resample to (B, C, ceil(H / stride), ceil(W / stride))."""
        # not -(-a // b): ONNX rounds negative quotients towards 0
        height, width = ((side + self.stride - 1) // self.stride for side in self.size)
        # cells whose centre is beyond the last patch's take that patch's value
        beyond = [-(-self.stride // side) for side in self.patch]
        grid = F.pad(self.grid, (0, beyond[1], 0, beyond[0]), mode="replicate")
        grid = grid.contiguous(memory_format=torch.channels_last)  # ten times faster to resample
        scale = tuple(side / self.stride for side in self.patch)
        cells = F.interpolate(grid, scale_factor=scale, mode="bilinear", align_corners=False)
        return take_first(take_first(cells, 2, height), 3, width)


Map = Tensor | LazyResize


def values_of(x: Map) -> Tensor:
    """Return the tensor of a feature map; for a LazyResize, its ``grid``."""
    return x.grid if isinstance(x, LazyResize) else x


def with_values(x: Map, values: Tensor) -> Map:
    """Return a feature map like ``x`` with other values."""
    return replace(x, grid=values) if isinstance(x, LazyResize) else values


def as_tensor(x: Map) -> Tensor:
    """Return a feature map as a tensor, resampled if it is a LazyResize."""
    return x.tensor() if isinstance(x, LazyResize) else x


def project(x: Map, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a 1x1 convolution, weight (D, C) and bias (D,), to a map (B, C, H, W)."""
    return as_tensor(with_values(x, F.conv2d(values_of(x), weight[:, :, None, None], bias)))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (H, W)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
