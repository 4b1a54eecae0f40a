"""Segmentation into classes: semantic segmentation and human parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.class_index import ClassIndex
from vmt_mm.tasks.labels import IGNORE
from vmt_mm.tasks.task import Task, of_task

#: Softmax of fewer classes that lie side by side is slower than a copy that parts them.
_MANY_CLASSES = 16
_IGNORE_COLOR = (224, 224, 224)
#: PASCAL VOC's colour of borders, index 255.
_VOC_BORDER = (224, 224, 192)


@TASKS.register_module()
class Segmentation(Task):
    """One class a pixel: softmax cross-entropy, mean IoU.

    Args:
        name: see :class:`Task`.
        num_classes: classes, background included.
        loss_weight: see :class:`Task`.
        skip_background: leave images without any foreground label out of the metric, as the
            field does for human parts.
        absent: 'skip' leaves classes that occur in neither labels nor predictions of the whole
            set out of the mean IoU; 'zero' counts them as 0, as part of the field does.
        reduce_zero_label: see :class:`ClassIndex`.
        colors: of the classes in label files that show classes by colours: RGB of each; 'voc' for
            PASCAL VOC's, of which (224, 224, 192) is ignored; None for files of indices.
        ignore_color: see :class:`ClassIndex`.
        iou_metrics: reported with mIoU: 'mDice', 'mFscore', as by mmseg's ``IoUMetric``.
        kwargs: ``suffix``, see :class:`Task`.
    """

    primary_metric = "mIoU"

    def __init__(
        self,
        name: str,
        num_classes: int,
        loss_weight: float = 1.0,
        skip_background: bool = False,
        absent: str = "skip",
        reduce_zero_label: bool = False,
        colors: Sequence[Sequence[int]] | str | None = None,
        ignore_color: Sequence[int] | None = None,
        iou_metrics: str | Sequence[str] = ("mIoU",),
        **kwargs: Any,
    ) -> None:
        if not isinstance(num_classes, int) or not 2 <= num_classes <= IGNORE:
            raise InputError(f"{name}: num_classes must be 2..{IGNORE}, got {num_classes!r}")
        self.out_channels = num_classes
        if isinstance(colors, str):
            if colors != "voc":
                raise InputError(f"{name}: colors must be a list of RGB colours or 'voc'")
            colors, ignore_color = voc_palette(num_classes).tolist(), ignore_color or _VOC_BORDER
        with of_task(name):
            self.label = ClassIndex(num_classes, reduce_zero_label, colors, ignore_color)
        super().__init__(name, loss_weight, **kwargs)
        self.skip_background = skip_background
        self.absent = absent
        self.iou_metrics = iou_metrics

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy, mean over the valid pixels."""
        index = target[:, 0].long()
        pixels = logits.permute(0, 2, 3, 1)
        # Where a pixel's classes lie side by side, a list of pixels takes no copy, which pays if
        # they are many. For maps, CUDA has no deterministic algorithm.
        side_by_side = pixels.is_contiguous() and self.out_channels >= _MANY_CLASSES
        if side_by_side or torch.are_deterministic_algorithms_enabled():
            logits, index = pixels.flatten(0, 2), index.flatten()
        total = F.cross_entropy(logits, index, ignore_index=IGNORE, reduction="sum")
        return total / (index != IGNORE).sum().clamp(min=1)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Most likely class, (N, 1, H, W), uint8."""
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8)

    def to_scores(self, logits: Tensor) -> Tensor:
        """Probability of every class, (N, num_classes, H, W)."""
        return logits.softmax(dim=1)

    def metric(self) -> dict:
        """IoU over the whole set."""
        return dict(
            type="SegmentationMetric",
            task=self.name,
            num_classes=self.out_channels,
            ignore_index=IGNORE,
            skip_background=self.skip_background,
            absent=self.absent,
            iou_metrics=self.iou_metrics,
        )

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Colour of each pixel's class; ignored pixels light grey."""
        palette = np.tile(np.uint8(_IGNORE_COLOR), (256, 1))
        palette[: self.out_channels] = self._palette(meta)
        return palette[values[0].astype(np.uint8)]

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Classes that occur, most frequent first."""
        names = meta.get("classes", [str(i) for i in range(self.out_channels)])
        counts = np.bincount(values[0].astype(np.uint8).ravel(), minlength=256)
        palette = self._palette(meta)
        order = np.argsort(-counts[: self.out_channels], kind="stable")
        return [(names[i], tuple(int(v) for v in palette[i])) for i in order if counts[i]]

    def check_metainfo(self, meta: Mapping, source: str) -> None:
        """Refuse class names that are not ``num_classes`` many."""
        names = meta.get("classes")
        if names is not None and len(names) != self.out_channels:
            raise InputError(
                f"{source}: {len(names)} class names for task {self.name!r}, "
                f"but its num_classes is {self.out_channels}"
            )
        palette = meta.get("palette")
        if palette is not None and np.shape(palette) != (self.out_channels, 3):
            raise InputError(
                f"{source}: the palette of task {self.name!r} must be {self.out_channels} colours "
                f"of 3 values, got shape {np.shape(palette)}"
            )

    def _palette(self, meta: Mapping) -> np.ndarray:
        if meta.get("palette") is not None:
            return np.uint8(meta["palette"])
        if self.label.colors is not None:
            return np.uint8([color for color, _ in self.label.colors[: self.out_channels]])
        return voc_palette(self.out_channels)


def voc_palette(num_classes: int) -> np.ndarray:
    """PASCAL VOC's colours, (num_classes, 3) uint8: bits of the index spread over R, G and B."""
    index = np.arange(num_classes)
    colors = np.zeros((num_classes, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colors.astype(np.uint8)
