"""Edge detection: boundaries that are one pixel wide."""

from typing import Any

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.foreground import ForegroundTask


@TASKS.register_module()
class Edge(ForegroundTask):
    """Edge detection: weighted binary cross-entropy, evaluated by the boundary F-score.

    Args:
        positive_weight: loss weight of boundary pixels; other pixels have 1 minus this weight. The
            metric's ``loss`` uses it even if ``loss`` selects another loss for training.
        tolerance: of the metric, as a share of the diagonal: 0.0075 for BSDS, 0.011 for NYUD.
    """

    primary_metric = "boundaryF"
    has_lines = True

    def __init__(
        self, name: str, positive_weight: float = 0.95, tolerance: float = 0.0075, **kwargs: Any
    ) -> None:
        self.default_loss = dict(type="BCE", positive_weight=positive_weight)
        super().__init__(name, **kwargs)
        if not 0 < positive_weight < 1:
            raise InputError(f"`positive_weight` must be in (0, 1), got {positive_weight!r}")
        self.options = dict(tolerance=tolerance, positive_weight=positive_weight)

    def metric(self) -> dict:
        """Config of :class:`~vmt_mm.evaluation.EdgeMetric`."""
        return dict(type="EdgeMetric", task=self.name, **self.options)
