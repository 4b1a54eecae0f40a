"""Segmentation metrics: IoU and the other metrics of mmseg's ``IoUMetric``."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from prettytable import PrettyTable
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Counts, Direction, TaskMetric
from vmt_mm.registry import METRICS

#: Option of mmseg's ``IoUMetric`` -> per-class metrics.
IOU_METRICS = dict(
    mIoU=("IoU", "Acc"), mDice=("Dice", "Acc"), mFscore=("Fscore", "Precision", "Recall")
)


@METRICS.register_module()
class SegmentationMetric(TaskMetric):
    """Mean and per-class IoU_c = TP / (TP + FP + FN) over all pixels of the dataset.

    Definitions follow mmseg's ``IoUMetric``. Per-class results are logged as a table and reported
    as ``<task>/IoU/<class>``. Scores are percentages.

    Args:
        num_classes: number of classes, including the background.
        ignore_index: label value of ignored pixels.
        skip_background: leave out images that contain only class 0 and ignored pixels.
        absent: result of a class with 0 / 0: 'skip' (left out, as in mmseg) or 'zero'.
        iou_metrics: any of 'mIoU', 'mDice', 'mFscore', as in mmseg; 'mIoU' is always included.
    """

    directions = dict.fromkeys(
        ("mIoU", "aAcc", "mAcc", "mDice", "mFscore", "mPrecision", "mRecall"), "greater"
    ) | dict(absent_classes=None)

    def __init__(
        self,
        task: str,
        num_classes: int,
        ignore_index: int = 255,
        skip_background: bool = False,
        absent: str = "skip",
        iou_metrics: str | Sequence[str] = ("mIoU",),
        **kwargs: Any,
    ) -> None:
        super().__init__(task, **kwargs)
        if absent not in ("skip", "zero"):
            raise InputError(f"{task}: `absent` must be 'skip' or 'zero', got {absent!r}")
        asked = [iou_metrics] if isinstance(iou_metrics, str) else iou_metrics
        if not isinstance(asked, (list, tuple)) or not set(asked) <= set(IOU_METRICS):
            known = list(IOU_METRICS)
            raise InputError(f"{task}: `iou_metrics` must be among {known}, got {iou_metrics!r}")
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self.skip_background, self.absent = skip_background, absent
        self.kinds = list(dict.fromkeys(k for key in ("mIoU", *asked) for k in IOU_METRICS[key]))

    def declare(self, meta: Mapping[str, Any]) -> dict[str, Direction]:
        """Return the keys of the requested means and of all classes."""
        asked = {"aAcc", "absent_classes", *(f"m{kind}" for kind in self.kinds)}
        means = {key: way for key, way in (self.directions or {}).items() if key in asked}
        names = class_names(meta, self.num_classes)
        classes = dict.fromkeys((f"{k}/{name}" for k in self.kinds for name in names), "greater")
        return {**means, "images": None, **classes}

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Count true positives, predicted pixels and labelled pixels per class."""
        valid = label != self.ignore_index
        counted = valid & (label != 0) if self.skip_background else valid
        if not counted.any():
            return {}
        label, prediction = label[valid].long(), prediction[valid].long()
        if int(label.max()) >= self.num_classes:
            rule = f"expected [0, {self.num_classes - 1}] or {self.ignore_index} (ignored)"
            raise InputError(f"{self.task}: invalid label value {int(label.max())}; {rule}")
        pixels = dict(true=label[label == prediction], predicted=prediction, label=label)
        count = partial(torch.bincount, minlength=self.num_classes)
        return {name: count(values).cpu().numpy() for name, values in pixels.items()}

    def reduce(self, counts: Counts) -> dict[str, float]:
        """Return means over classes in percent, and the number of absent classes if any."""
        means = {
            f"m{kind}": 0.0 if np.isnan(values).all() else float(np.nanmean(values))
            for kind, values in self._ratios(counts, self.kinds).items()
        }
        accuracy = 100 * float(counts["true"].sum() / counts["label"].sum())
        absent = np.sum((counts["predicted"] + counts["label"]).sum(axis=0) == 0)
        of_absent = dict(absent_classes=float(absent)) if absent else {}
        return {"mIoU": means.pop("mIoU"), "aAcc": accuracy, **means, **of_absent}

    def reduce_classes(self, counts: Counts) -> dict[str, float]:
        """Return per-class metrics in percent where defined, and log them as a table."""
        names = class_names((self.dataset_meta or {}).get(self.task, {}), self.num_classes)
        ratios = self._ratios(counts, [*self.kinds, "Dice"])
        table = class_table(names, ratios)
        print_log(f"{self.task}, per class results:\n{table}", "current")
        return {
            f"{kind}/{name}": float(value)
            for kind in self.kinds
            for name, value in zip(names, ratios[kind], strict=True)
            if not np.isnan(value)
        }

    def _ratios(self, counts: Counts, kinds: Sequence[str]) -> dict[str, np.ndarray]:
        """Return per-class metrics (C,) in percent by kind; NaN where undefined and skipped."""
        true, predicted, label = (
            counts[k].sum(axis=0).astype(np.float64) for k in ("true", "predicted", "label")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = true / predicted, true / label
            known = dict(
                IoU=true / (predicted + label - true),
                Acc=recall,
                Dice=2 * true / (predicted + label),
                Fscore=2 * precision * recall / (precision + recall),
                Precision=precision,
                Recall=recall,
            )
        undefined = np.nan if self.absent == "skip" else 0.0
        return {kind: 100 * np.nan_to_num(known[kind], nan=undefined) for kind in kinds}


def class_names(meta: Mapping[str, Any], count: int) -> list[str]:
    """Return class names from the metainfo, else indices; indices make repeated names unique."""
    names = [str(name) for name in meta.get("classes") or ()]
    if len(names) != count:
        return [str(index) for index in range(count)]
    return [n if names.count(n) == 1 else f"{n} ({index})" for index, n in enumerate(names)]


def class_table(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> str:
    """Format columns of per-class values (C,) as a table, as mmseg does."""
    table = PrettyTable()
    table.add_column("Class", list(names))
    for kind, values in columns.items():
        table.add_column(kind, [f"{value:.2f}" for value in values])
    return table.get_string()
