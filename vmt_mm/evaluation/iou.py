"""Intersection over union of classes, and what mmseg reports beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.class_table import class_names, class_table
from vmt_mm.evaluation.task_metric import Direction, TaskMetric
from vmt_mm.registry import METRICS

#: What mmseg's ``IoUMetric`` can compute -> the numbers of a class that each gives.
IOU_METRICS = dict(
    mIoU=("IoU", "Acc"), mDice=("Dice", "Acc"), mFscore=("Fscore", "Precision", "Recall")
)
_OF_CLASSES = tuple(dict.fromkeys(name for names in IOU_METRICS.values() for name in names))


@METRICS.register_module()
class SegmentationMetric(TaskMetric):
    """IoU_c = TP / (TP + FP + FN) over the pixels of the whole set, and its mean over classes.

    A table of all classes is logged, and their numbers are results, too: ``<task>/IoU/<class>``.
    All are defined as in mmseg's ``IoUMetric``: a class without the pixels that a ratio divides by
    has none, and is left out of its mean.

    Args:
        task: see :class:`TaskMetric`.
        num_classes: classes, background included.
        ignore_index: label of pixels that are left out.
        skip_background: leave out images whose label has no class but 0 and ignored.
        absent: a class in neither labels nor predictions of the whole set is left out of the
            mean ('skip') or counts 0 ('zero'), as every ratio without a denominator then.
        iou_metrics: some of 'mIoU', 'mDice', 'mFscore', as mmseg's; 'mIoU' is always reported.
        collect_device: see :class:`TaskMetric`.

    Raises:
        InputError: if ``absent`` or ``iou_metrics`` is unknown, or, when an image is measured, its
            label has a value that is not a class.
    """

    directions = {
        "mIoU": "greater",
        "aAcc": "greater",
        **{f"m{name}": "greater" for name in _OF_CLASSES},
        "absent_classes": None,
    }

    def __init__(
        self,
        task: str,
        num_classes: int,
        ignore_index: int = 255,
        skip_background: bool = False,
        absent: str = "skip",
        iou_metrics: str | Sequence[str] = ("mIoU",),
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(task, collect_device)
        if absent not in ("skip", "zero"):
            raise InputError(f"{task}: `absent` must be 'skip' or 'zero', got {absent!r}")
        asked = [iou_metrics] if isinstance(iou_metrics, str) else iou_metrics
        if not isinstance(asked, (list, tuple)) or not set(asked) <= set(IOU_METRICS):
            raise InputError(
                f"{task}: iou_metrics must be some of {list(IOU_METRICS)}, got {iou_metrics!r}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.skip_background = skip_background
        self.absent = absent
        self.of_classes = tuple(
            dict.fromkeys(name for key in ("mIoU", *asked) for name in IOU_METRICS[key])
        )
        left_out = {f"m{name}" for name in set(_OF_CLASSES) - set(self.of_classes)}
        self.directions = {k: v for k, v in self.directions.items() if k not in left_out}

    def declare(self, meta: Mapping[str, Any]) -> dict[str, Direction]:
        """Also the numbers of every class."""
        names = class_names(meta, self.num_classes)
        single = {f"{kind}/{name}": "greater" for kind in self.of_classes for name in names}
        return {**super().declare(meta), **single}

    def measure(self, prediction: Tensor, label: Tensor) -> dict[str, np.ndarray]:
        """True positives, predicted and labelled pixels of every class."""
        valid = label != self.ignore_index
        counted = valid & (label != 0) if self.skip_background else valid
        if not counted.any():
            return {}
        label, prediction = label[valid].long(), prediction[valid].long()
        if int(label.max()) >= self.num_classes:
            raise InputError(
                f"{self.task}: label value {int(label.max())} where classes are "
                f"0..{self.num_classes - 1} and {self.ignore_index} = ignore"
            )

        def count(values: Tensor) -> np.ndarray:
            return torch.bincount(values, minlength=self.num_classes).cpu().numpy()

        return dict(
            true=count(label[label == prediction]), predicted=count(prediction), label=count(label)
        )

    def reduce(self, counts: dict[str, np.ndarray]) -> dict[str, float]:
        """Means over classes in percent; the number of classes left out, where there are any."""
        ratios = self._ratios(counts)
        means = {
            f"m{name}": float(np.nanmean(values)) if not np.isnan(values).all() else 0.0
            for name, values in ratios.items()
        }
        accuracy = 100 * float(counts["true"].sum() / counts["label"].sum())
        results = {"mIoU": means.pop("mIoU"), "aAcc": accuracy, **means}
        absent = (counts["predicted"] + counts["label"]).sum(axis=0) == 0
        if absent.any():
            results["absent_classes"] = float(absent.sum())
        return results

    def reduce_classes(self, counts: dict[str, np.ndarray]) -> dict[str, float]:
        """The numbers of every class in percent, where it has them; also logged as a table."""
        names = class_names((self.dataset_meta or {}).get(self.task, {}), self.num_classes)
        ratios = self._ratios(counts)
        print_log(f"{self.task}, per class:\n{class_table(names, ratios)}", "current")
        return {
            f"{kind}/{name}": float(value)
            for kind, values in ratios.items()
            for name, value in zip(names, values, strict=True)
            if not np.isnan(value)
        }

    def _ratios(self, counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Name -> its value for every class (C,) in percent; NaN where it is not defined."""
        true, predicted, label = (
            counts[k].sum(axis=0).astype(np.float64) for k in ("true", "predicted", "label")
        )
        precision, recall = _divide(true, predicted), _divide(true, label)
        known = dict(
            IoU=_divide(true, predicted + label - true),
            Acc=recall,
            Dice=_divide(2 * true, predicted + label),
            Fscore=_divide(2 * precision * recall, precision + recall),
            Precision=precision,
            Recall=recall,
        )
        undefined = np.nan if self.absent == "skip" else 0.0
        return {name: 100 * np.nan_to_num(known[name], nan=undefined) for name in self.of_classes}


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients; NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0
    )
