"""Segmentation: one class per pixel, such as semantic classes or human parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import IGNORE, LabelSpec
from vmt_mm.tasks.task import Task
from vmt_mm.utils.label_files import LOSSLESS, LOSSY, read_classes, read_stored, with_channels

Color = Sequence[int]
_IGNORE_COLOR, _VOC_BORDER = (224, 224, 224), (224, 224, 192)


class ClassIndex(LabelSpec):
    """Class indices, 255 = ignored; label files may show classes by colours instead."""

    categorical = True
    suffixes = (*LOSSLESS, *LOSSY)

    def __init__(
        self,
        num_classes: int,
        reduce_zero_label: bool = False,
        colors: Sequence[Color] | None = None,
        ignore_color: Color | None = None,
    ) -> None:
        if reduce_zero_label if colors else ignore_color:
            raise InputError("`ignore_color` needs `colors`; `reduce_zero_label` excludes them")
        self.num_classes, self.reduce_zero_label = num_classes, reduce_zero_label
        listed = [*(colors or ()), *([] if ignore_color is None else [ignore_color])]
        table = [tuple(np.ravel(color).tolist()) for color in listed]
        valid = all(len(color) == 3 and set(color) <= set(range(256)) for color in table)
        if colors is not None and (
            not valid or len(colors) != num_classes or len(set(table)) < len(table)
        ):
            raise InputError(
                f"`colors` must be {num_classes} distinct RGB colours of integers in [0, 255], one "
                f"per class, none equal to `ignore_color`; got {len(colors)}: {colors!r}"[:400]
            )
        self.colors = dict(zip(table, [*range(num_classes), IGNORE], strict=False))

    def read(self, path: str | Path) -> np.ndarray:
        """Read class indices (H, W), uint8; raise InputError if one is out of range."""
        if self.colors:
            return self._read_colors(path)
        if not self.reduce_zero_label:
            return self.decode_prediction(path)
        values = read_classes(path, self.num_classes + 1, IGNORE)
        return np.where(values == IGNORE, np.uint8(IGNORE), values - np.uint8(1))  # 0 becomes 255

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Convert class indices (1, H, W) to an image (H, W), uint8."""
        return values[0].astype(np.uint8)

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Read a file of class indices, (H, W) uint8."""
        return read_classes(path, self.num_classes, IGNORE)

    def _read_colors(self, path: str | Path) -> np.ndarray:
        rule = f"the colours of {self.num_classes} classes (8-bit RGB)"
        values, palette = read_stored(path, rule)
        values = values if palette is None else palette[values]
        if values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=-1)
        values = with_channels(values, 3, path, rule)
        if values.dtype != np.uint8:
            raise InputError(f"{path}: expected {rule}, got {values.dtype}")
        codes, inverse = np.unique(values @ np.array([65536, 256, 1]), return_inverse=True)
        found = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
        if unknown := [color for color in found if color not in self.colors]:
            raise InputError(
                f"{path}: unknown colours {unknown[:3]}{'...' * (len(unknown) > 3)}; expected only "
                "the task's `colors` (exact values) and its `ignore_color`"
            )
        index = np.array([self.colors[color] for color in found], np.uint8)
        return index[inverse].reshape(values.shape[:2])


@TASKS.register_module()
class Segmentation(Task):
    """Segmentation into classes: softmax cross-entropy, evaluated by the mean IoU.

    Args:
        num_classes: number of classes, including the background, 2..255.
        reduce_zero_label: as in mmseg: in label files, 0 = ignored and k + 1 = class k.
        colors: RGB colour of each class if label files show classes by colours; 'voc' for those of
            PASCAL VOC, with (224, 224, 192) ignored; None for files of class indices.
        ignore_color: RGB colour of ignored pixels.

    The other arguments are those of :class:`~vmt_mm.evaluation.SegmentationMetric`.
    """

    primary_metric = "mIoU"
    default_loss = dict(type="CrossEntropy")
    content = "classes"
    label: ClassIndex

    def __init__(
        self,
        name: str,
        num_classes: int,
        skip_background: bool = False,
        absent: str = "skip",
        reduce_zero_label: bool = False,
        colors: Sequence[Color] | str | None = None,
        ignore_color: Color | None = None,
        iou_metrics: str | Sequence[str] = ("mIoU",),
        **kwargs: Any,
    ) -> None:
        if not isinstance(num_classes, int) or not 2 <= num_classes <= IGNORE:
            raise InputError(f"`num_classes` must be an int in [2, {IGNORE}], got {num_classes!r}")
        self.out_channels = num_classes
        listed = None if isinstance(colors, str) else colors
        if isinstance(colors, str):
            if colors != "voc":
                raise InputError(f"`colors` must be a list of RGB colours or 'voc', got {colors!r}")
            listed, ignore_color = voc_palette(num_classes).tolist(), ignore_color or _VOC_BORDER
        self.label = ClassIndex(num_classes, reduce_zero_label, listed, ignore_color)
        super().__init__(name, **kwargs)
        self.options = dict(skip_background=skip_background, absent=absent, iou_metrics=iou_metrics)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Return the most likely class, (N, 1, H, W) uint8."""
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8)

    def to_scores(self, logits: Tensor) -> Tensor:
        """Return class probabilities, (N, num_classes, H, W)."""
        return logits.softmax(dim=1)

    def metric(self) -> dict:
        """Config of :class:`~vmt_mm.evaluation.SegmentationMetric`."""
        classes = dict(num_classes=self.out_channels, ignore_index=IGNORE)
        return dict(type="SegmentationMetric", task=self.name, **classes, **self.options)

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw each pixel in the colour of its class, and ignored pixels light grey."""
        palette = np.tile(np.array(_IGNORE_COLOR, np.uint8), (256, 1))
        palette[: self.out_channels] = self._palette(meta)
        return palette[values[0].astype(np.uint8)]

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Name the classes that occur, most frequent first."""
        names = meta.get("classes", [str(i) for i in range(self.out_channels)])
        counts = np.bincount(values[0].astype(np.uint8).ravel(), minlength=256)
        palette = self._palette(meta).tolist()
        order = np.argsort(-counts[: self.out_channels], kind="stable")
        return [(names[i], tuple(palette[i])) for i in order if counts[i]]

    def check_metainfo(self, meta: Mapping, source: str) -> None:
        """Raise InputError if there are not ``num_classes`` class names or colours."""
        count = self.out_channels
        for key, what, entry in (("classes", "names", ()), ("palette", "RGB colours", (3,))):
            try:
                fits = meta.get(key) is None or np.shape(meta[key]) == (count, *entry)
            except ValueError:  # entries of unequal lengths
                fits = False
            if not fits:
                rule = f"`{key}` must list {count} {what}, one per class (num_classes={count})"
                said = f"{source}: metainfo of task {self.name!r}: {rule}, got {meta[key]!r}"
                raise InputError(said[:400])

    def _palette(self, meta: Mapping) -> np.ndarray:
        known = [*self.label.colors][: self.out_channels] or voc_palette(self.out_channels)
        return np.array(known if meta.get("palette") is None else meta["palette"], np.uint8)


def voc_palette(num_classes: int) -> np.ndarray:
    """PASCAL VOC's palette, (num_classes, 3) uint8: bits of the index spread over R, G and B."""
    bits = np.arange(num_classes)[:, None] >> np.arange(24) & 1
    return np.packbits(bits.reshape(-1, 8, 3).astype(np.uint8), axis=1)[:, 0]
