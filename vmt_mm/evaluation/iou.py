"""Intersection over union of classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import TaskMetric
from vmt_mm.registry import METRICS


@METRICS.register_module()
class SegmentationMetric(TaskMetric):
    """IoU_c = TP / (TP + FP + FN) over the pixels of the whole set, and its mean over classes.

    Args:
        task: see :class:`TaskMetric`.
        num_classes: classes, background included.
        ignore_index: label of pixels that are left out.
        skip_background: leave out images whose label has no class but 0 and ignored.
        absent: a class in neither labels nor predictions of the whole set is left out of the
            mean ('skip') or counts 0 ('zero').
        collect_device: see :class:`TaskMetric`.
    """

    def __init__(
        self,
        task: str,
        num_classes: int,
        ignore_index: int = 255,
        skip_background: bool = False,
        absent: str = "skip",
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(task, collect_device)
        if absent not in ("skip", "zero"):
            raise InputError(f"{task}: `absent` must be 'skip' or 'zero', got {absent!r}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.skip_background = skip_background
        self.absent = absent

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
        """Mean IoU in percent; the number of classes left out, where there are any."""
        true, predicted, label = (
            counts[k].sum(axis=0).astype(np.float64) for k in ("true", "predicted", "label")
        )
        union = predicted + label - true
        iou = np.divide(true, union, out=np.zeros_like(true), where=union > 0)
        present = union > 0
        counted = present if self.absent == "skip" else np.ones_like(present)
        results = dict(
            mIoU=100 * float(iou[counted].mean()),
            aAcc=100 * float(true.sum() / label.sum()),
        )
        if not present.all():
            results["absent_classes"] = float((~present).sum())
        return results
