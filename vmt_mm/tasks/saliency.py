"""Which pixels draw the eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.foreground import THRESHOLDS, ForegroundTask, weighted_bce


@TASKS.register_module()
class Saliency(ForegroundTask):
    """Which pixels draw the eye: balanced cross-entropy; best Jaccard over thresholds.

    Args:
        primary_metric: 'mIoU' or 'maxF', which represents the task.
        thresholds: and the others are those of ``SaliencyMetric``; None takes its own.
    """

    primary_metric = "mIoU"
    protocol_options = dict(
        C=dict(primary_metric="maxF", f_thresholds=THRESHOLDS, beta_squared=0.3, average="set")
    )

    def __init__(
        self,
        name: str,
        primary_metric: str = "mIoU",
        thresholds: Sequence[float] | None = None,
        f_thresholds: Sequence[float] | None = None,
        beta_squared: float = 1.0,
        average: str = "images",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if primary_metric not in ("mIoU", "maxF"):
            raise InputError(f"primary_metric must be one of mIoU, maxF, got {primary_metric!r}")
        self.primary_metric = primary_metric
        cuts = dict(thresholds=thresholds, f_thresholds=f_thresholds)
        self.options = dict(**cuts, beta_squared=beta_squared, average=average)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """BCE balanced by the batch: w = negatives / valid pixels on the positives, 1 - w else."""
        valid = self.label.valid(target)
        negatives = ((target == 0) & valid).sum()
        return weighted_bce(logits, target, valid, negatives / valid.sum().clamp(min=1))

    def metric(self) -> dict:
        """Jaccard and F-measure over thresholds."""
        return dict(type="SaliencyMetric", task=self.name, **self.options)
