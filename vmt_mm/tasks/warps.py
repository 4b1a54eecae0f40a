"""Affine maps of images: of one, as an array, and of a batch on the device where it lies.

Letters: N images, C channels, h, w height and width of sources, H, W of the output, in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import cv2
import numpy as np
import torch
from torch import Tensor

from vmt_mm.utils.compat import UINT16

#: Types of values that all of cv2's functions used here take.
CV2_TYPES = (np.uint8, np.uint16, np.float32)
#: Channels whose border it can colour, each by its own value.
_COLORED = 4


@dataclass(frozen=True)
class Warp:
    """One affine map of an image, described so that label values can follow it.

    Attributes:
        matrix: (2, 3), from source to output pixel centres, in cv2's (x, y) coordinates.
        size: (H, W) of the output.
        flip: whether the map mirrors left and right, before it rotates.
        angle: rotation in degrees, counter-clockwise as seen.
        scale: zoom factor, > 1 enlarges; a plain resize of the frame is not a zoom.
    """

    matrix: np.ndarray
    size: tuple[int, int]
    flip: bool = False
    angle: float = 0.0
    scale: float = 1.0

    def apply(self, array: np.ndarray, interpolation: int, fill: float | tuple) -> np.ndarray:
        """Resample ``array`` (H, W[, C]); pixels from outside the source become ``fill``."""
        if isinstance(fill, tuple) and len(fill) > _COLORED:
            parts = range(0, len(fill), _COLORED)
            channels = [(array[..., k : k + _COLORED], fill[k : k + _COLORED]) for k in parts]
            return np.dstack([self.apply(part, interpolation, own) for part, own in channels])
        height, width = self.size
        # cv2 has vector code for 4 channels, not for 3: the values are the same, in half the time.
        padded = array.shape[2:] == (3,) and array.dtype in CV2_TYPES
        if padded:
            array = cv2.cvtColor(array, cv2.COLOR_BGR2BGRA)
        array = cv2.warpAffine(
            array, self.matrix, (width, height), flags=interpolation, borderValue=fill
        )
        return cv2.cvtColor(array, cv2.COLOR_BGRA2BGR) if padded else array


class BatchWarp:
    """The maps of N images of any sizes, for tensors: what :class:`Warp` is for an array.

    Sources are stacked by :func:`framed`. Whatever lies outside of one is in its frame, so no pixel
    needs a case of its own. Coordinates are computed once, for the image and all of its labels.

    Args:
        warps: the maps, of one output size.
        sources: (h, w) of each source.
        device: where to resample.

    Attributes:
        size: (H, W) of the output.
        flip: (N, 1, 1, 1) bool, see :class:`Warp`.
        cos: of the angle, (N, 1, 1, 1) float32.
        sin: likewise.
        scale: likewise, see :class:`Warp`.
    """

    def __init__(
        self,
        warps: Sequence[Warp],
        sources: Sequence[tuple[int, int]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.size = warps[0].size
        # What frames the largest source is as large as the stack of them all.
        self._framed = tuple(max(s[axis] for s in sources) + 2 for axis in (0, 1))
        angles = np.deg2rad([warp.angle for warp in warps])
        numbers = np.column_stack(
            [
                np.stack([cv2.invertAffineTransform(warp.matrix).ravel() for warp in warps]),
                [warp.flip for warp in warps],
                [warp.scale for warp in warps],
                np.cos(angles),
                np.sin(angles),
            ]
        )
        numbers = torch.tensor(numbers, dtype=torch.float32)
        if torch.device(device).type == "cuda":
            numbers = numbers.pin_memory()  # else the copy would wait for the device's queue
        columns = numbers.to(device, non_blocking=True)[..., None, None].unbind(1)
        self._inverse = columns[:6]  # each (N, 1, 1)
        flip, self.scale, self.cos, self.sin = (x[:, None] for x in columns[6:])
        self.flip = flip > 0

    def nearest(self, values: Tensor) -> Tensor:
        """Give every pixel the values of one source pixel, exactly, in any type.

        Args:
            values: (N, C, h + 2, w + 2), stacked by :func:`framed`.

        Returns:
            (N, C, H, W).
        """
        return self._take(values, self._nearest)

    def linear(self, values: Tensor) -> Tensor:
        """Interpolate bilinearly, (N, C, h + 2, w + 2) to (N, C, H, W) float32."""
        corners, (right, down) = self._linear
        upper_left, upper_right, lower_left, lower_right = (
            self._take(values, index).float() for index in corners
        )
        upper = torch.lerp(upper_left, upper_right, right)
        return torch.lerp(upper, torch.lerp(lower_left, lower_right, right), down)

    @cached_property
    def _coordinates(self) -> tuple[Tensor, Tensor]:
        """Where the output's pixels lie in their source: x and y, (N, H, W) float32."""
        (height, width), device = self.size, self.flip.device
        x = torch.arange(width, dtype=torch.float32, device=device)
        y = torch.arange(height, dtype=torch.float32, device=device)[:, None]
        a, b, c, d, e, f = self._inverse
        return a * x + (b * y + c), d * x + (e * y + f)

    @cached_property
    def _nearest(self) -> Tensor:
        """Index of the nearest pixel, (N, H * W); halves go to the even one, as in cv2."""
        x, y = self._coordinates
        return self._index(x.round(), y.round())

    @cached_property
    def _linear(self) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Indices of the four pixels around, (N, H * W), and shares of the right and lower ones."""
        x, y = self._coordinates
        left, top = x.floor(), y.floor()
        corners = [self._index(left + right, top + down) for down in (0, 1) for right in (0, 1)]
        return corners, ((x - left)[:, None], (y - top)[:, None])

    def _index(self, x: Tensor, y: Tensor) -> Tensor:
        """Index in the stack's pixels of whole-numbered places, (N, H * W); outside: the frame."""
        height, width = self._framed  # what is beyond a smaller source is its fill, too
        x, y = x.clamp(-1, width - 2).long(), y.clamp(-1, height - 2).long()
        return ((y + 1) * width + x + 1).flatten(1)

    def _take(self, values: Tensor, index: Tensor) -> Tensor:
        """Values (N, C, H, W) at these places."""
        if tuple(values.shape[2:]) != self._framed:
            raise ValueError(f"expected a stack of {self._framed}, got {tuple(values.shape[2:])}")
        index = index[:, None].expand(-1, values.shape[1], -1)
        if values.dtype is UINT16:  # which PyTorch stores, but does not gather
            return self._take(values.view(torch.int16), index[:, 0]).view(UINT16)
        return values.flatten(2).gather(2, index).unflatten(2, self.size)


def framed(sources: Sequence[Tensor], fill: float | Sequence[float]) -> Tensor:
    """Stack (C, h, w) of any sizes to (N, C, max h + 2, max w + 2), with ``fill`` all around each.

    Args:
        sources: on one device, with as many channels each.
        fill: one value, or one a channel.
    """
    channels = sources[0].shape[0]
    height, width = (max(source.shape[axis] for source in sources) for axis in (1, 2))
    dtype = reduce(torch.promote_types, (source.dtype for source in sources))
    stack = sources[0].new_empty((len(sources), channels, height + 2, width + 2), dtype=dtype)
    fills = fill if isinstance(fill, Sequence) else [fill] * channels
    for channel, value in enumerate(fills):
        stack[:, channel].fill_(value)  # a tensor of the values would have to be copied there
    for place, source in zip(stack, sources, strict=True):
        place[:, 1 : source.shape[1] + 1, 1 : source.shape[2] + 1] = source
    return stack
