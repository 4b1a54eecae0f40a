"""Feature maps (B, C, H, W) that are resampled and summed only when needed."""

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


#: A map that is not a sum.
SimpleMap = Tensor | LazyResize


@dataclass(frozen=True)
class LazySum:
    """Feature map (B, C, H, W): ``base`` plus a 1x1 convolution, weight (C, w), bias (C,), of w.

    A head multiplies its first 1x1 convolution into the weight, see :func:`project`, so tasks with
    weights of their own share both maps. ``extra`` is (B, w, H, W).
    """

    base: SimpleMap
    extra: SimpleMap
    weight: Tensor
    bias: Tensor


Map = SimpleMap | LazySum


def tensors_of(x: Map) -> tuple[Tensor, ...]:
    """Return the tensors of a feature map."""
    if isinstance(x, LazySum):
        return (*tensors_of(x.base), *tensors_of(x.extra), x.weight, x.bias)
    return (x.grid if isinstance(x, LazyResize) else x,)


def with_tensors(x: Map, tensors: Sequence[Tensor]) -> Map:
    """Return a feature map like ``x`` with other tensors."""
    if isinstance(x, LazySum):
        base, extra, weight, bias = tensors
        return LazySum(with_values(x.base, base), with_values(x.extra, extra), weight, bias)
    return with_values(x, *tensors)


def with_values(x: SimpleMap, values: Tensor) -> SimpleMap:
    """Return a feature map like ``x`` with other values (B, C, h, w)."""
    return replace(x, grid=values) if isinstance(x, LazyResize) else values


def as_tensor(x: Map) -> Tensor:
    """Return a feature map as a tensor."""
    if isinstance(x, LazySum):
        return as_tensor(x.base) + project(x.extra, x.weight, x.bias)
    return x.tensor() if isinstance(x, LazyResize) else x


def resample_like(x: SimpleMap, like: SimpleMap) -> Tensor:
    """Resample x to the cells of another map of the same images: (B, C, H, W)."""
    if isinstance(x, LazyResize) and isinstance(like, LazyResize):
        return replace(like, grid=x.grid).tensor()
    (target,) = tensors_of(like)
    return resize(as_tensor(x), (target.shape[2], target.shape[3]))


def project(x: Map, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a 1x1 convolution, weight (D, C) and bias (D,), to a map (B, C, H, W)."""
    if isinstance(x, LazySum):
        shift = weight @ x.bias
        extra = project(x.extra, weight @ x.weight, shift if bias is None else bias + shift)
        return project(x.base, weight) + extra
    (values,) = tensors_of(x)
    return as_tensor(with_values(x, F.conv2d(values, weight[:, :, None, None], bias)))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, h, w) bilinearly to (H, W)."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
