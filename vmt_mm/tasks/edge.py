"""Edge detection: boundaries that are one pixel wide."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.foreground import ForegroundTask, weighted_bce


@TASKS.register_module()
class Edge(ForegroundTask):
    """Edge detection: weighted binary cross-entropy, evaluated by the boundary F-score.

    Args:
        positive_weight: loss weight of boundary pixels; other pixels have 1 minus this weight.
        tolerance: of the metric, as a share of the diagonal: 0.0075 for BSDS, 0.011 for NYUD.
    """

    primary_metric = "boundaryF"
    has_lines = True

    def __init__(
        self, name: str, positive_weight: float = 0.95, tolerance: float = 0.0075, **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        if not 0 < positive_weight < 1:
            raise InputError(f"`positive_weight` must be in (0, 1), got {positive_weight!r}")
        self.options = dict(tolerance=tolerance, positive_weight=positive_weight)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Binary cross-entropy with a fixed positive weight, mean over the valid pixels."""
        valid = self.label.valid(target)
        return weighted_bce(logits, target, valid, self.options["positive_weight"])

    def metric(self) -> dict:
        """Config of :class:`~vmt_mm.evaluation.EdgeMetric`."""
        return dict(type="EdgeMetric", task=self.name, **self.options)
