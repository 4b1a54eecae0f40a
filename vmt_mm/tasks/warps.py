"""Affine warps of images: one array with OpenCV, or a batch of tensors on any device.

Notation: N images, C channels, h, w height and width of sources, H, W of the output, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from vmt_mm.utils.compat import UINT16

CV2_TYPES = (np.uint8, np.uint16, np.float32)  # supported by cv2.cvtColor and cv2.split
_FILLED = 4  # most channels for which cv2.warpAffine takes one border value each


@dataclass(frozen=True)
class Warp:
    """Affine warp of one image: flip, rotation, zoom and a resize of the frame."""

    matrix: np.ndarray = field(default_factory=lambda: np.eye(2, 3))  # maps source (x, y) to output
    size: tuple[int, int] = (1, 1)  # (H, W) of the output
    flip: bool = False  # horizontal, before the rotation
    angle: float = 0.0  # degrees, counter-clockwise as displayed
    scale: float = 1.0  # zoom, > 1 enlarges; a resize of the frame is not a zoom

    def apply(self, array: np.ndarray, interpolation: int, fill: float | tuple) -> np.ndarray:
        """Resample ``array`` (h, w[, C]); pixels outside the source become ``fill``."""
        if isinstance(fill, tuple) and len(fill) > _FILLED:
            parts = (slice(k, k + _FILLED) for k in range(0, len(fill), _FILLED))
            return np.dstack([self.apply(array[..., p], interpolation, fill[p]) for p in parts])
        # cv2 is twice as fast with 4 channels as with 3
        padded = array.shape[2:] == (3,) and array.dtype in CV2_TYPES
        if padded:
            array = cv2.cvtColor(array, cv2.COLOR_BGR2BGRA)
        border = fill if isinstance(fill, tuple) else (fill,) * _FILLED
        size = self.size[::-1]
        array = cv2.warpAffine(array, self.matrix, size, flags=interpolation, borderValue=border)
        return cv2.cvtColor(array, cv2.COLOR_BGRA2BGR) if padded else array


class Geometry(NamedTuple):
    """Flip, rotation and zoom of N warps, applied in this order; each (N, 1, 1, 1)."""

    flip: Tensor  # bool, horizontal
    cos: Tensor  # of the rotation, counter-clockwise as displayed
    sin: Tensor
    scale: Tensor  # zoom factor, > 1 enlarges

    @classmethod
    def of(cls, warps: Sequence[Warp], device: torch.device | str = "cpu") -> Geometry:
        """Collect the geometry of ``warps`` on a device."""
        angles = np.deg2rad([warp.angle for warp in warps])
        rows = [[w.flip for w in warps], np.cos(angles), np.sin(angles), [w.scale for w in warps]]
        flip, cos, sin, scale = _columns(np.column_stack(rows), device)
        return cls(flip > 0, cos, sin, scale)


def _columns(numbers: np.ndarray, device: torch.device | str) -> tuple[Tensor, ...]:
    """Move the columns of an array (N, k) to a device, each as (N, 1, 1, 1) float32."""
    tensor = torch.tensor(numbers, dtype=torch.float32)[..., None, None, None]
    return tensor.to(device, non_blocking=True).unbind(1)


class BatchWarp:
    """Warps of N tensors of any sizes (h, w), stacked by :func:`framed`."""

    def __init__(
        self,
        warps: Sequence[Warp],
        sources: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = warps[0].size
        self.geometry = Geometry.of(warps, device)
        self._framed = tuple(max(source[axis] for source in sources) + 2 for axis in (0, 1))
        inverse = [cv2.invertAffineTransform(warp.matrix).ravel() for warp in warps]
        a, b, c, d, e, f = _columns(np.stack(inverse), device)
        x = torch.arange(self.size[1], dtype=torch.float32, device=device)
        y = torch.arange(self.size[0], dtype=torch.float32, device=device)[:, None]
        self._x, self._y = a * x + (b * y + c), d * x + (e * y + f)  # of the source, (N, 1, H, W)

    def nearest(self, values: Tensor) -> Tensor:
        """Sample nearest neighbours, (N, C, h + 2, w + 2) to (N, C, H, W)."""
        return self._take(values, self._nearest)

    def linear(self, values: Tensor) -> Tensor:
        """Sample bilinearly, (N, C, h + 2, w + 2) to (N, C, H, W) float32."""
        corners, (right, down) = self._linear
        a, b, c, d = (self._take(values, index).float() for index in corners)
        return torch.lerp(torch.lerp(a, b, right), torch.lerp(c, d, right), down)

    @cached_property
    def _nearest(self) -> Tensor:
        """Index of the nearest pixel, (N, 1, H * W); halves round to even, as in cv2."""
        return self._index(self._x.round(), self._y.round())

    @cached_property
    def _linear(self) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Indices of the four neighbours, and the weights of the right and the lower ones."""
        left, top = self._x.floor(), self._y.floor()
        corners = [self._index(left + right, top + down) for down in (0, 1) for right in (0, 1)]
        return corners, (self._x - left, self._y - top)

    def _index(self, x: Tensor, y: Tensor) -> Tensor:
        """Flat index of integer coordinates, (N, 1, H * W), clamped to the border."""
        height, width = self._framed
        x, y = x.clamp(-1, width - 2).long(), y.clamp(-1, height - 2).long()
        return ((y + 1) * width + x + 1).flatten(2)

    def _take(self, values: Tensor, index: Tensor) -> Tensor:
        """Gather values (N, C, H, W) at flat indices."""
        if tuple(values.shape[2:]) != self._framed:
            raise ValueError(f"`framed` pads to {self._framed}, got {tuple(values.shape[2:])}")
        if UINT16 is not None and values.dtype is UINT16:  # PyTorch cannot gather it
            return self._take(values.view(torch.int16), index).view(UINT16)
        index = index.expand(-1, values.shape[1], -1)
        return values.flatten(2).gather(2, index).unflatten(2, self.size)


def framed(sources: Sequence[Tensor], fill: float | Sequence[float]) -> Tensor:
    """Pad (C, h, w) of any sizes by 1 pixel or more and stack: (N, C, max h + 2, max w + 2)."""
    channels = sources[0].shape[0]
    height, width = (max(source.shape[axis] for source in sources) for axis in (1, 2))
    dtype = reduce(torch.promote_types, (source.dtype for source in sources))
    stack = sources[0].new_empty((len(sources), channels, height + 2, width + 2), dtype=dtype)
    for channel, value in enumerate(fill if isinstance(fill, Sequence) else [fill] * channels):
        stack[:, channel].fill_(value)  # avoids copying a tensor of values to the device
    for place, source in zip(stack, sources, strict=True):
        place[:, 1 : source.shape[1] + 1, 1 : source.shape[2] + 1] = source
    return stack
