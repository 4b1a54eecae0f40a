"""Label files of class indices, or of one colour per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vmt_mm.errors import InputError
from vmt_mm.tasks.label_counts import LabelCounts
from vmt_mm.tasks.labels import IGNORE, LabelSpec
from vmt_mm.utils.label_decoding import read_stored
from vmt_mm.utils.label_files import LOSSLESS, LOSSY, read_classes, with_channels

Color = Sequence[int]
_COLORS_RULE = " (files with a colour per class need the task's `colors`)"


class ClassIndex(LabelSpec):
    """Class indices, 255 = ignore; in files as they are, or as the colours of the classes.

    Predictions are written as indices.

    Args:
        num_classes: indices are below it.
        reduce_zero_label: in files 0 is ignored and class k is k + 1, as mmseg has it.
        colors: RGB of each class in files that show classes by colours; None for indices.
        ignore_color: RGB that is ignored, besides; None for none.
    """

    categorical = True
    suffixes = (*LOSSLESS, *LOSSY)

    def __init__(
        self,
        num_classes: int,
        reduce_zero_label: bool = False,
        colors: Sequence[Color] | None = None,
        ignore_color: Color | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.reduce_zero_label = reduce_zero_label
        if colors is None and ignore_color is not None:
            raise InputError("`ignore_color` needs `colors`, a list of each class's RGB")
        if colors is not None and reduce_zero_label:
            raise InputError("`reduce_zero_label` is for files of indices, not of `colors`")
        self.colors = None if colors is None else _checked_colors(colors, num_classes, ignore_color)

    def read(self, path: str | Path) -> np.ndarray:
        """Read indices (H, W), uint8; raise InputError if one is out of range."""
        if self.colors is not None:
            return self._read_colors(path)
        if not self.reduce_zero_label:
            return read_classes(path, self.num_classes, IGNORE, _COLORS_RULE)
        values = read_classes(path, self.num_classes + 1, IGNORE, _COLORS_RULE)
        return np.where((values == 0) | (values == IGNORE), np.uint8(IGNORE), values - np.uint8(1))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Indices (1, H, W) to an image (H, W), uint8."""
        return values[0].astype(np.uint8)

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Indices (H, W), uint8, of a file of indices."""
        return read_classes(path, self.num_classes, IGNORE)

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Labels of one class alone."""
        if counts.valid and len(counts.values) == 1:
            (value,) = counts.values
            ignored = 1 - counts.valid / counts.pixels
            also = f", {ignored:.0%} of all are ignored (255)" if ignored else ""
            return [f"every labelled pixel is of class {value}{also}"]
        return super().find_suspicion(counts)

    def _read_colors(self, path: str | Path) -> np.ndarray:
        rule = f"the colours of {self.num_classes} classes (RGB)"
        stored = read_stored(path, rule)
        values = stored.values if stored.palette is None else stored.palette[stored.values]
        if values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=-1)
        values = with_channels(values, 3, path, rule)
        if values.dtype != np.uint8:
            raise InputError(f"{path}: expected {rule} in 8 bits, got {values.dtype}")
        codes = _codes(values)
        known = _codes(np.uint8([color for color, _ in self.colors]))
        order = np.argsort(known)
        place = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
        unknown = known[order][place] != codes
        if unknown.any():
            colors, pixels = np.unique(values[unknown], axis=0, return_counts=True)
            first = pixels.argmax()
            raise InputError(
                f"{path}: {unknown.sum()} pixel(s) have a colour of no class, most often "
                f"{tuple(colors[first].tolist())} in {pixels[first]}; expected one of the task's "
                "`colors`, exactly, or its `ignore_color`"
            )
        return np.uint8([index for _, index in self.colors])[order][place]


def _codes(colors: np.ndarray) -> np.ndarray:
    """Colours (..., 3), uint8, as numbers."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) + (green << 8) + blue


def _checked_colors(
    colors: Sequence[Color], num_classes: int, ignore_color: Color | None
) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Pairs of colour and index; InputError if they are no colours, or not one for each class."""
    listed = [*colors, *([] if ignore_color is None else [ignore_color])]
    array = np.array(listed, dtype=object)
    valid = array.shape == (len(listed), 3) and all(
        isinstance(value, (int, np.integer)) and 0 <= value <= 255 for value in array.flat
    )
    if not valid or len(colors) != num_classes:
        raise InputError(
            f"`colors` must be {num_classes} RGB colours of 3 whole numbers 0..255, one for each "
            f"class, and `ignore_color` one more; got {len(colors)}: {colors!r}"[:400]
        )
    plain = [tuple(int(value) for value in color) for color in listed]
    if len(set(plain)) < len(plain):
        twice = next(color for color in plain if plain.count(color) > 1)
        raise InputError(f"`colors`: {twice} is the colour of two classes, or ignored as well")
    return tuple(zip(plain, [*range(num_classes), IGNORE], strict=False))
