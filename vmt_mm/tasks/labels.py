"""What a label file means and what geometry does to its values.

Every transform of the data pipeline asks a :class:`LabelSpec`; none knows a task by name.
Letters: N images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.tasks.label_counts import LabelCounts
from vmt_mm.tasks.warps import CV2_TYPES, BatchWarp, Warp
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.label_files import read_label as read_label

IGNORE = 255
#: What of a spec decides about :meth:`LabelSpec.warp` and the tensor that comes of it.
_OF_WARP = {"warp", "_resample", "_flip_values", "_rotate_values", "zoom_values", "to_tensor"}


class LabelSpec:
    """File format of a label and the effect of flip, rotation and scale on its values.

    In memory a label is an array (H, W) or (H, W, C). This base holds one value a pixel that is
    never blended with a neighbour's: subclasses say how to read it, either by ``decode``, or by
    ``read`` and ``interpret``, where what the file holds is smaller than the label in memory.
    """

    #: Ending of the files that predictions are written to.
    suffix: str = ".png"
    #: Endings that label files may have, the preferred one first. What a file holds is read from
    #: its content, whatever its ending.
    suffixes: tuple[str, ...] = (".png",)
    #: Whether values are class indices.
    categorical: ClassVar[bool] = False
    #: Value of pixels that carry no label; what a warp brings in from outside gets it.
    fill: ClassVar[float] = IGNORE

    def ending_with(self, suffix: str) -> LabelSpec:
        """The same spec for label files whose names end with ``suffix``, such as '_mask.png'.

        Raises:
            InputError: if no file's name can end so.
        """
        if not isinstance(suffix, str) or "/" in suffix or not Path(f"id{suffix}").suffix:
            raise InputError(
                f"suffix must be how the names of label files end, such as '.png' or '_mask.png', "
                f"got {suffix!r}"
            )
        spec = copy.copy(self)
        spec.suffixes = (suffix,)
        return spec

    def decode(self, path: str | Path) -> np.ndarray:
        """Read a label file into memory, (H, W[, C])."""
        return self.interpret(self.read(path))

    def read(self, path: str | Path) -> np.ndarray:
        """Read a file's values as they are, (H, W[, C]); raise InputError if they are wrong."""
        raise NotImplementedError

    def check_file(self, path: str | Path, share: float = 0.0) -> None:
        """Raise InputError where a file that ``decode`` takes breaks the layout all the same.

        Args:
            path: the file.
            share: of its pixels that may do so.
        """

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Turn a file's values into the label in memory, (H, W[, C]); ``values`` may be it."""
        return values

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Read a file of what :meth:`encode` made of a prediction, (H, W[, C]), as a label."""
        return self.decode(path)

    def count(self, label: np.ndarray) -> LabelCounts:
        """Count what one label in memory (H, W[, C]) holds, for :meth:`find_suspicion`."""
        valid = self.valid(self.to_tensor(label)[None])[0, 0].numpy()
        known = label[valid]
        counts = LabelCounts(images=1, pixels=valid.size, valid=len(known))
        counts.constant = int(len(known) > 0 and bool((known == known[0]).all()))
        if label.dtype.kind in "ui":
            values, pixels = _histogram(known)
            counts.values.update(dict(zip(values.tolist(), pixels.tolist(), strict=True)))
            counts.images_with.update(counts.values.keys())
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Say, in words, what makes labels hardly those of this format, however well they decode.

        Args:
            counts: of all that were looked at.
        """
        if counts.images and not counts.valid:
            return ["no pixel has a label, all are ignored"]
        if counts.images and counts.constant == counts.images:
            return ["every label has one value alone, the same at all of its pixels"]
        return []

    @property
    def cacheable_raw(self) -> bool:
        """Whether a label may be kept as what ``read`` gives; else as what ``decode`` does."""
        return type(self).decode is LabelSpec.decode

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Turn values (C, H, W), of a label or a prediction, into the image to write."""
        raise NotImplementedError

    def valid(self, target: Tensor) -> Tensor:
        """Mask (N, 1, H, W) of the pixels that carry a label, of targets (N, C, H, W)."""
        return target != self.fill

    def to_tensor(self, label: np.ndarray) -> Tensor:
        """Convert a label to a tensor (C, H, W)."""
        return from_numpy(channels_first(label))

    def warp(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Resample the label by ``warp`` and let its values follow flip, rotation and scale."""
        label = self._resample(label, warp)
        if warp.flip:
            label = self._flip_values(label)
        if warp.angle:
            label = self._rotate_values(label, warp.angle)
        if warp.scale != 1.0:
            label = self.zoom_values(label, warp.scale)
        return label

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """:meth:`warp` for the labels of a batch, on their device.

        Args:
            labels: (N, C, h + 2, w + 2), as :meth:`to_tensor` gives them, framed in ``fill``.
            warp: the map of each.

        Returns:
            (N, C, H, W).
        """
        return warp.nearest(labels)

    @property
    def supports_batch_warp(self) -> bool:
        """Whether :meth:`warp_batch` does what :meth:`warp` does.

        Not where a class that it does not come after says what geometry does on the CPU: such
        labels are warped there.
        """
        kinds = type(self).__mro__
        owner = next(kind for kind in kinds if "warp_batch" in vars(kind))
        return all(issubclass(owner, kind) for kind in kinds if vars(kind).keys() & _OF_WARP)

    @property
    def identity(self) -> tuple[str, str]:
        """What tells this spec from others: its class and settings."""
        kind = type(self)
        settings = sorted((name, _content(value)) for name, value in vars(self).items())
        return f"{kind.__module__}.{kind.__qualname__}", repr(settings)

    def resize(self, label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resize to ``size`` (H, W), as the label is best interpolated."""
        return self.resize_nearest(label, size)

    def resize_nearest(self, label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Resize to ``size`` (H, W); every pixel keeps the values of one source pixel."""
        return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)

    def flip(self, label: np.ndarray) -> np.ndarray:
        """Mirror left and right."""
        return self._flip_values(label[:, ::-1].copy())

    def pad(self, label: np.ndarray, bottom: int, right: int) -> np.ndarray:
        """Append rows below and columns at the right that carry no label."""
        widths = [(0, bottom), (0, right)] + [(0, 0)] * (label.ndim - 2)
        return np.pad(label, widths, constant_values=self.fill)

    def _resample(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        return warp.apply(label, cv2.INTER_NEAREST, self.fill)

    def _flip_values(self, label: np.ndarray) -> np.ndarray:
        return label

    def _rotate_values(self, label: np.ndarray, angle: float) -> np.ndarray:
        return label

    def zoom_values(self, label: np.ndarray, scale: float) -> np.ndarray:
        """Let values follow a zoom of the image by ``scale``, > 1 enlarges."""
        return label


def _content(value: object) -> str:
    """A setting in words; of an array all of its values, which ``repr`` would shorten."""
    return repr(value.tolist() if isinstance(value, np.ndarray) else value)


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) that occur, and how often."""
    if values.dtype != np.uint8:
        return np.unique(values, return_counts=True)
    counts = np.bincount(values, minlength=256)  # several times as fast
    return np.flatnonzero(counts), counts[counts > 0]


def channels_first(array: np.ndarray) -> np.ndarray:
    """Rearrange (H, W[, C]) to (C, H, W), contiguous; not a copy where it need not be."""
    moved = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    if array.ndim == 2 or moved.flags.c_contiguous or array.dtype not in CV2_TYPES:
        return np.ascontiguousarray(moved)
    planes = np.empty((array.shape[2], *array.shape[:2]), array.dtype)
    cv2.split(array, list(planes))  # several times as fast as NumPy's strided copy
    return planes
