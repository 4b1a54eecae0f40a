"""Feature maps (B, C, H, W), and one that is resampled only where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.utils.compat import take_first


@dataclass(frozen=True)
class LazyResize:
    """A ``grid`` (B, C, h, w) of patches, to be resampled at the centres of cells, bilinearly.

    Heads apply a first 1x1 convolution to the small grid, see :func:`project`: it commutes with the
    resampling. The grid may reach beyond the image; so sizes are in pixels: (height, width) of a
    ``patch``, side of a cell (``stride``), and ``size`` (H, W) of the image.
    """

    grid: Tensor
    patch: tuple[int, int]
    stride: int
    size: tuple[int, int]

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


Map = Tensor | LazyResize


def values_of(x: Map) -> Tensor:
    """The tensor that a map is computed from."""
    return x.grid if isinstance(x, LazyResize) else x


def with_values(x: Map, values: Tensor) -> Map:
    """A map like ``x`` of other values."""
    return replace(x, grid=values) if isinstance(x, LazyResize) else values


def as_tensor(x: Map) -> Tensor:
    """The map itself."""
    return x.tensor() if isinstance(x, LazyResize) else x


def project(x: Map, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of a map (B, C, H, W) by weight (D, C) and bias (D,): (B, D, H, W)."""
    return as_tensor(with_values(x, F.conv2d(values_of(x), weight[:, :, None, None], bias)))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (H, W)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
