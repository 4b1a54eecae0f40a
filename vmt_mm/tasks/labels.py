"""What a label file means and what geometry does to its values.

Every transform of the data pipeline asks a :class:`LabelSpec`; none knows a task by name.
Letters: N images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from torch import Tensor

from vmt_mm.tasks.warps import CV2_TYPES, BatchWarp, Geometry, Warp
from vmt_mm.utils.compat import from_numpy

IGNORE = 255


@dataclass
class LabelCounts:
    """Counts over the labels of one task; those of several images add up."""

    images: int = 0
    constant: int = 0  # labels all of whose valid pixels have one value
    pixels: int = 0
    valid: int = 0  # pixels that carry a label
    values: Counter[int] = field(default_factory=Counter)  # value -> pixels, of 8-bit labels
    images_with: Counter[int] = field(default_factory=Counter)  # value -> images, of 8-bit labels
    facts: Counter[str] = field(default_factory=Counter)  # what else a kind counts -> pixels

    def add(self, other: LabelCounts) -> None:
        """Count other labels as well."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class LabelSpec:
    """File format of a label and the effect of flip, rotation and zoom on its values.

    In memory a label is an array (H, W) or (H, W, C). In this base every pixel keeps the value of
    one source pixel. Subclasses say how to ``read`` a file and how to ``interpret`` its values.
    """

    suffix: str = ".png"  # of the files that predictions are written to
    #: Suffixes that label files may have, the preferred one first; the content decides.
    suffixes: tuple[str, ...] = (".png",)
    #: What the integers 0, 1 .. in memory mean, in words; empty for plain numbers.
    value_names: ClassVar[tuple[str, ...]] = ()
    categorical: ClassVar[bool] = False  # whether values are class indices
    #: Value of pixels without a label, also of those that a warp brings in from outside.
    fill: ClassVar[float] = IGNORE

    def decode(self, path: str | Path) -> np.ndarray:
        """Read a label file into memory, (H, W[, C])."""
        return self.interpret(self.read(path))

    @property
    def keeps_file_values(self) -> bool:
        """Whether a cache keeps what ``read`` gives; else, for a ``decode`` of its own, labels."""
        return type(self).decode is LabelSpec.decode

    def read(self, path: str | Path) -> np.ndarray:
        """Read a file's values as stored, (H, W[, C]); raise InputError if they are wrong."""
        raise NotImplementedError

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Turn a file's values into the label in memory, (H, W[, C]); ``values`` may be it."""
        return values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Turn values (C, H, W), of a label or a prediction, into the image to write."""
        raise NotImplementedError

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Read a prediction that was written by :meth:`encode`, (H, W[, C]), as a label."""
        return self.decode(path)

    def check_file(self, path: str | Path, share: float = 0.0) -> None:
        """Raise InputError if more than a share of a file's pixels is wrong, though it decodes."""

    def count(self, label: np.ndarray) -> LabelCounts:
        """Count what one label in memory (H, W[, C]) holds, for :meth:`find_suspicion`."""
        valid = self.valid(self.to_tensor(label)[None])[0, 0].numpy()
        known = label[valid]
        counts = LabelCounts(images=1, pixels=valid.size, valid=len(known))
        counts.constant = int(len(known) > 0 and bool((known == known[0]).all()))
        if label.dtype == np.uint8 and len(known):  # 20 times as fast as np.bincount
            pixels = cv2.calcHist([known], [0], None, [256], [0, 256]).ravel()
            counts.values.update({v: int(pixels[v]) for v in np.flatnonzero(pixels).tolist()})
            counts.images_with.update(counts.values.keys())
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Say why labels with these counts are probably wrong, although they decode."""
        if counts.images and not counts.valid:
            return ["no pixel has a label, all are ignored"]
        if counts.valid and len(counts.values) == 1:
            (value,), ignored = counts.values, 1 - counts.valid / counts.pixels
            what = self.value_names[value] if self.value_names else f"of value {value}"
            return [f"every pixel is {what}, except {ignored:.0%} that are ignored"]
        if counts.images and counts.constant == counts.images:
            return ["every label has one value alone, the same at all of its pixels"]
        return []

    def valid(self, target: Tensor) -> Tensor:
        """Mask (N, 1, H, W) of the pixels that carry a label, of targets (N, C, H, W)."""
        return target != self.fill

    def to_tensor(self, label: np.ndarray) -> Tensor:
        """Convert a label to a tensor (C, H, W)."""
        return from_numpy(channels_first(label))

    def transform_values(self, labels: Tensor, geometry: Geometry) -> Tensor:
        """Let values (N, C, H, W), already resampled, follow flips, rotations and zooms."""
        return labels

    def follow(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """:meth:`transform_values` for one label (H, W[, C]), already resampled."""
        values = self.to_tensor(label)[None]
        values = self.transform_values(values, Geometry.of([warp]))[0].numpy()
        return values[0] if label.ndim == 2 else values.transpose(1, 2, 0)

    def warp(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Resample the label by ``warp`` and let its values follow."""
        return self.follow(self.resample(label, warp), warp)

    def resample(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Resample the label by ``warp``; values stay as they are."""
        return warp.apply(label, cv2.INTER_NEAREST, self.fill)

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """:meth:`warp` for tensors, framed in ``fill``: (N, C, h + 2, w + 2) to (N, C, H, W)."""
        return self.transform_values(warp.nearest(labels), warp.geometry)

    def resize(self, label: np.ndarray, size: tuple[int, int], nearest: bool = False) -> np.ndarray:
        """Resize to ``size`` (H, W), as the label is best interpolated, or to nearest pixels."""
        return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def pad(self, label: np.ndarray, bottom: int, right: int) -> np.ndarray:
        """Append rows below and columns at the right that carry no label."""
        widths = [(0, bottom), (0, right)] + [(0, 0)] * (label.ndim - 2)
        return np.pad(label, widths, constant_values=self.fill)

    @property
    def identity(self) -> tuple[str, str]:
        """Class and settings, in words."""
        return repr(type(self)), repr(sorted(vars(self).items()))


def channels_first(array: np.ndarray) -> np.ndarray:
    """Rearrange (H, W[, C]) to (C, H, W), contiguous; not a copy where it need not be."""
    moved = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if array.ndim == 2 or moved.flags.c_contiguous or array.dtype not in CV2_TYPES:
        return np.ascontiguousarray(moved)
    planes = np.empty(moved.shape, array.dtype)
    cv2.split(array, list(planes))  # several times as fast as NumPy's strided copy
    return planes
