"""Saliency: the foreground that attracts a viewer's attention."""

from collections.abc import Sequence
from typing import Any

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.foreground import THRESHOLDS, ForegroundTask


@TASKS.register_module()
class Saliency(ForegroundTask):
    """Saliency detection: balanced cross-entropy, evaluated by the best Jaccard over thresholds.

    Args:
        primary_metric: metric that represents the task, 'mIoU' or 'maxF'.

    The other arguments are those of ``SaliencyMetric``.
    """

    primary_metric = "mIoU"
    default_loss = dict(type="BCE")
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
            raise InputError(f"`primary_metric` must be one of mIoU, maxF, got {primary_metric!r}")
        self.primary_metric = primary_metric
        cuts = dict(thresholds=thresholds, f_thresholds=f_thresholds)
        self.options = dict(**cuts, beta_squared=beta_squared, average=average)

    def metric(self) -> dict:
        """Config of ``SaliencyMetric``."""
        return dict(type="SaliencyMetric", task=self.name, **self.options)
