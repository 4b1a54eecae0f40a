"""Saliency: which pixels draw the eye."""

from __future__ import annotations

from torch import Tensor

from vmt_mm.registry import TASKS
from vmt_mm.tasks.binary import ForegroundTask, weighted_bce


@TASKS.register_module()
class Saliency(ForegroundTask):
    """Salient foreground: balanced cross-entropy; best foreground Jaccard over thresholds."""

    primary_metric = "mIoU"

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """BCE balanced by the batch: w = negatives / valid pixels on the positives, 1 - w else."""
        valid = self.label.valid(target)
        negatives = ((target == 0) & valid).sum()
        share = negatives / valid.sum().clamp(min=1)
        return weighted_bce(logits, target, valid, share)

    def metric(self) -> dict:
        """Jaccard and F-measure over thresholds."""
        return dict(type="SaliencyMetric", task=self.name)
