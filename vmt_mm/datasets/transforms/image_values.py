"""What an image's pixels become before the network's normalisation, whatever the file holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vmt_mm.errors import CorruptFileError, InputError

COLOR, GRAYSCALE, UNCHANGED = "color", "grayscale", "unchanged"
_HOW = "in the pipelines for training and test"


@dataclass(frozen=True)
class ImageValues:
    """The rule by which stored pixels become an image.

    Attributes:
        color_type: 'color' gives three channels, blue, green, red; 'grayscale' one; 'unchanged' all
            that there are, alpha as well.
        value_range: the values that become 0 and 255, as float32, what lies beyond clipped. None
            takes 8-bit images alone as 'color' and 'grayscale', and others as they are, in
            float32, as 'unchanged'.
        background: the colour (blue, green, red), 0..255, behind transparent pixels; None refuses
            those.
    """

    color_type: str = COLOR
    value_range: tuple[float, float] | None = None
    background: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.color_type not in (COLOR, GRAYSCALE, UNCHANGED):
            raise InputError(
                "LoadImageFromFile: color_type must be 'color', 'grayscale' or 'unchanged', got "
                f"{self.color_type!r}"
            )
        if self.value_range is not None and not (
            _are_numbers(self.value_range, 2) and self.value_range[0] < self.value_range[1]
        ):
            raise InputError(
                "LoadImageFromFile: value_range must be (low, high), the values that become 0 and "
                f"255, got {self.value_range!r}"
            )
        if self.background is not None and not (
            _are_numbers(self.background, 3) and all(0 <= v <= 255 for v in self.background)
        ):
            raise InputError(
                "LoadImageFromFile: background must be a colour (blue, green, red) of 0..255, got "
                f"{self.background!r}"
            )

    def __call__(self, values: np.ndarray, name: str) -> np.ndarray:
        """Make the image.

        Args:
            values: stored pixels, (H, W) or (H, W, C).
            name: what an error calls them.

        Returns:
            (H, W, 3) for 'color', (H, W) for 'grayscale', (H, W[, C]) for 'unchanged'; uint8, or
            float32.

        Raises:
            CorruptFileError: if the rule does not say what becomes of the values.
        """
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        if values.dtype.kind not in "uif" or values.ndim not in (2, 3) or not values.size:
            raise CorruptFileError(
                f"{name}: expected an image (H, W) or (H, W, C) of whole or real numbers, got "
                f"{values.dtype} {values.shape}"
            )
        if self.color_type != UNCHANGED and values.ndim == 3:
            values = self._three_channels(values, name)
        if values.dtype != np.uint8 or self.value_range:
            values = self._in_range(values, name)
        if self.color_type == COLOR and values.ndim == 2:
            return cv2.cvtColor(values, cv2.COLOR_GRAY2BGR)
        if self.color_type == GRAYSCALE and values.ndim == 3:
            return cv2.cvtColor(values, cv2.COLOR_BGR2GRAY)
        return values

    def _three_channels(self, values: np.ndarray, name: str) -> np.ndarray:
        """Take an alpha channel off; refuse other numbers of channels."""
        channels = values.shape[2]
        if channels == 3:
            return values
        if channels != 4 or values.dtype.kind != "u":
            raise CorruptFileError(
                f"{name}: has {channels} channels of {values.dtype}; expected one, three, or three "
                f"and alpha. To use all of them set LoadImageFromFile(color_type='unchanged') "
                f"{_HOW}, {channels} values of data_preprocessor.mean and std, and "
                f"backbone.in_channels={channels}"
            )
        opaque = np.iinfo(values.dtype).max
        colors, alpha = values[..., :3], values[..., 3:]
        if (alpha == opaque).all():
            return np.ascontiguousarray(colors)
        if self.background is None:
            raise CorruptFileError(
                f"{name}: has transparent pixels, and the file does not say what is behind them: "
                "set LoadImageFromFile(background=(255, 255, 255)) for white, or color_type="
                f"'unchanged' where the fourth channel is data, {_HOW}"
            )
        share = alpha.astype(np.float64) / opaque
        behind = np.asarray(self.background, np.float64) * (opaque / 255)
        return np.rint(colors * share + behind * (1 - share)).astype(values.dtype)

    def _in_range(self, values: np.ndarray, name: str) -> np.ndarray:
        """Values beyond 8 bits as float32, mapped to 0..255 where the range is known."""
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise CorruptFileError(f"{name}: holds values that are not finite")
        if self.value_range is None:
            if self.color_type != UNCHANGED:
                raise CorruptFileError(
                    f"{name}: holds {values.dtype} values, {values.min():g}..{values.max():g}, "
                    "which do not fit 8 bits: set LoadImageFromFile(value_range=(LOW, HIGH)), the "
                    "values that become 0 and 255, or color_type='unchanged' with mean and std in "
                    f"these units, {_HOW}"
                )
            return values.astype(np.float32)
        low, high = self.value_range
        if values.dtype.kind != "f" and high > np.iinfo(values.dtype).max:
            raise CorruptFileError(
                f"{name}: holds {values.dtype} values, which value_range={self.value_range} is not "
                "meant for; store all images alike"
            )
        if values.max() < low or values.min() > high:
            raise CorruptFileError(
                f"{name}: all values, {values.min():g}..{values.max():g}, lie outside of "
                f"value_range={self.value_range}"
            )
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        return np.clip(scaled, 0, 255).astype(np.float32)


def displayable(image: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) BGR, uint8, of an image (H, W[, C]) of any values.

    What is not 8 bits is stretched from its smallest to its largest value, unless it is in 0..255;
    of other than one or three channels the first is shown in grey, of four the first three.
    """
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        if not 1 < high <= 255 or low < 0:
            image = (image - low) * (255 / max(high - low, 1e-12))
        image = np.rint(image).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return np.ascontiguousarray(image[..., :3])
    grey = image if image.ndim == 2 else np.ascontiguousarray(image[..., 0])
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == count
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    )
