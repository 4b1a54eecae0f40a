"""Label formats: how to read a label file and how geometric transforms change its values.

All transforms of the data pipeline go through a :class:`LabelSpec`; none depends on a task's name.
Notation: N images, C channels, H, W height and width in pixels.
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
    """Statistics of the labels of one task, summed over images."""

    images: int = 0
    constant: int = 0  # labels with one value at all valid pixels
    pixels: int = 0
    valid: int = 0  # pixels that carry a label
    values: Counter[int] = field(default_factory=Counter)  # value -> pixels, of 8-bit labels
    images_with: Counter[int] = field(default_factory=Counter)  # value -> images, of 8-bit labels
    facts: Counter[str] = field(default_factory=Counter)  # test of a label format -> pixels

    def add(self, other: LabelCounts) -> None:
        """Add the counts of ``other`` in place."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class LabelSpec:
    """File format of a task's labels, and how flip, rotation and zoom change their values.

    :meth:`read` returns a file's raw values, :meth:`interpret` the label, (H, W) or (H, W, C).
    Subclasses implement :meth:`read`, :meth:`encode` and, if needed, :meth:`interpret`. By default,
    geometric transforms use nearest-neighbour interpolation and leave values unchanged.
    """

    suffix: str = ".png"  # of prediction files
    folder: str  # of label files, below a dataset's root; set by the task
    #: Accepted suffixes of label files, preferred first; the format is detected by content.
    suffixes: tuple[str, ...] = (".png",)
    #: Meaning of the label values 0, 1, ...; empty if values are plain numbers.
    value_names: ClassVar[tuple[str, ...]] = ()
    categorical: ClassVar[bool] = False  # whether values are class indices
    #: Value of pixels without a label, including pixels outside the source after a warp.
    fill: ClassVar[float] = IGNORE

    def decode(self, path: str | Path) -> np.ndarray:
        """Read a label file and convert it to a label, (H, W[, C])."""
        return self.interpret(self.read(path))

    @property
    def keeps_file_values(self) -> bool:
        """Whether a cache stores the output of ``read``; if False, that of a custom ``decode``."""
        return type(self).decode is LabelSpec.decode

    def read(self, path: str | Path) -> np.ndarray:
        """Read a file's raw values, (H, W[, C]); raise InputError if they are invalid."""
        raise NotImplementedError

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Convert raw values to a label, (H, W[, C]); may return ``values`` unchanged."""
        return values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Convert a label or prediction (C, H, W) to the image to write."""
        raise NotImplementedError

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Read what :meth:`encode` wrote: like a label, (H, W[, C]), or probabilities 0..1."""
        return self.decode(path)

    def check_file(self, path: str | Path, share: float = 0.0) -> None:
        """Raise InputError if more than ``share`` of the pixels of a readable file are invalid.

        The base class checks nothing.
        """

    def count(self, label: np.ndarray) -> LabelCounts:
        """Compute the statistics of one label (H, W[, C]) for :meth:`find_suspicion`."""
        valid = self.valid(self.to_tensor(label)[None])[0, 0].numpy()
        known = label[valid]
        counts = LabelCounts(images=1, pixels=valid.size, valid=len(known))
        counts.constant = int(len(known) > 0 and bool((known == known[0]).all()))
        if label.dtype == np.uint8 and len(known):  # 20 times faster than np.bincount
            pixels = cv2.calcHist([known], [0], None, [256], [0, 256]).ravel()
            counts.values.update({v: int(pixels[v]) for v in np.flatnonzero(pixels).tolist()})
            counts.images_with.update(counts.values.keys())
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Return messages on why labels with these statistics are probably wrong."""
        if counts.images and not counts.valid:
            return ["no pixel has a label, all are ignored"]
        if counts.valid and len(counts.values) == 1:
            (value,), ignored = counts.values, 1 - counts.valid / counts.pixels
            what = self.value_names[value] if self.value_names else f"of value {value}"
            return [f"every pixel is {what}, except for {ignored:.0%} ignored pixels"]
        if counts.images and counts.constant == counts.images:
            return ["every label is constant: all valid pixels have one value"]
        return []

    def valid(self, target: Tensor) -> Tensor:
        """Mask (N, 1, H, W) of the labelled pixels of targets (N, C, H, W)."""
        return target != self.fill

    def to_tensor(self, label: np.ndarray) -> Tensor:
        """Convert a label (H, W[, C]) to a tensor (C, H, W)."""
        return from_numpy(channels_first(label))

    def transform_values(self, labels: Tensor, geometry: Geometry) -> Tensor:
        """Update values (N, C, H, W) after resampling by flips, rotations and zooms."""
        return labels

    def follow(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Apply :meth:`transform_values` to one label (H, W[, C]), already resampled."""
        values = self.to_tensor(label)[None]
        values = self.transform_values(values, Geometry.of([warp]))[0].numpy()
        return values[0] if label.ndim == 2 else values.transpose(1, 2, 0)

    def warp(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Resample the label by ``warp`` and update its values."""
        return self.follow(self.resample(label, warp), warp)

    def resample(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Resample the label by ``warp`` without updating its values."""
        return warp.apply(label, cv2.INTER_NEAREST, self.fill)

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """:meth:`warp` a batch (N, C, h + 2, w + 2), padded with ``fill``, to (N, C, H, W)."""
        return self.transform_values(warp.nearest(labels), warp.geometry)

    def resize(self, label: np.ndarray, size: tuple[int, int], nearest: bool = False) -> np.ndarray:
        """Resize to ``size`` (H, W); ``nearest`` forces nearest-neighbour interpolation."""
        return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def pad(self, label: np.ndarray, bottom: int, right: int) -> np.ndarray:
        """Pad rows at the bottom and columns at the right with ``fill``."""
        widths = [(0, bottom), (0, right)] + [(0, 0)] * (label.ndim - 2)
        return np.pad(label, widths, constant_values=self.fill)

    @property
    def identity(self) -> tuple[str, str]:
        """Class and settings as strings, part of a cache key."""
        return repr(type(self)), repr(sorted(vars(self).items()))


def channels_first(array: np.ndarray) -> np.ndarray:
    """Rearrange (H, W[, C]) to contiguous (C, H, W), copying only if needed."""
    moved = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if array.ndim == 2 or moved.flags.c_contiguous or array.dtype not in CV2_TYPES:
        return np.ascontiguousarray(moved)
    planes = np.empty(moved.shape, array.dtype)
    cv2.split(array, list(planes))  # several times faster than NumPy's strided copy
    return planes
