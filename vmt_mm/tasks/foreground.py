"""Saliency and edges: tasks with one foreground probability per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.task import Task
from vmt_mm.utils.label_files import LOSSLESS, LOSSY, MASK_VALUES, read_mask

#: 0.05, 0.1 .. 0.95, the usual thresholds for probabilities.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


class ForegroundMask(LabelSpec):
    """8-bit file of a mask; in memory 0 or 1, 255 where a pixel is ignored."""

    suffixes = (*LOSSLESS, *LOSSY)
    value_names = ("background: by `values` of the task", "foreground: by `values` of the task")

    def __init__(self, values: str = "mask255") -> None:
        if values not in MASK_VALUES:
            raise InputError(f"values must be one of {MASK_VALUES}, got {values!r}")
        self.values = values

    def read(self, path: str | Path) -> np.ndarray:
        """Read values (H, W), uint8."""
        return read_mask(path, self.values)

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Foreground (H, W), uint8 0/1, and 255 where ignored."""
        return (values > 127).view(np.uint8) if self.values == "mask255" else values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Probabilities (1, H, W) in 0..1 to an image (H, W), uint8 0..255, of any ``values``."""
        return np.rint(np.clip(values[0], 0, 1) * 255).astype(np.uint8)

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Foreground (H, W), uint8 0/1, of probabilities in 0..255."""
        return ForegroundMask().decode(path)


class ForegroundTask(Task):
    """One foreground probability per pixel, by a sigmoid.

    ``values`` of label files: 'mask255', foreground > 127; 'mask01', foreground = 1, 255 = ignored.
    """

    out_channels = 1
    label = ForegroundMask()

    def __init__(self, name: str, values: str = "mask255", **kwargs: Any) -> None:
        self.label = ForegroundMask(values)
        super().__init__(name, **kwargs)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Probability of foreground, (N, 1, H, W) float in 0..1."""
        return logits.sigmoid()

    to_scores = to_prediction

    def from_scores(self, scores: Tensor) -> Tensor:
        """A mean of probabilities is one."""
        return scores

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Grey image, white = foreground; label pixels that are ignored in mid-grey."""
        image = self.label.encode(values)
        image[values[0] == self.label.fill] = 128
        return np.repeat(image[..., None], 3, axis=-1)


def weighted_bce(
    logits: Tensor, target: Tensor, valid: Tensor, positive_weight: Tensor | float
) -> Tensor:
    """BCE of (N, 1, H, W), weight w on positives (1), 1 - w on others; mean over valid pixels."""
    positive = (target == 1) & valid
    weight = valid * (1 - positive_weight) + positive * (2 * positive_weight - 1)
    total = F.binary_cross_entropy_with_logits(
        logits, positive.to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return total / valid.sum().clamp(min=1)


@TASKS.register_module()
class Edge(ForegroundTask):
    """Boundaries of one pixel: cross-entropy that weighs the few positives; boundary F-score.

    Args:
        positive_weight: weight of boundary pixels; the others get 1 minus it.
        tolerance: of the metric, as a share of the diagonal; 0.0075 for BSDS, 0.011 for NYUD.
    """

    primary_metric = "boundaryF"
    has_lines = True

    def __init__(
        self, name: str, positive_weight: float = 0.95, tolerance: float = 0.0075, **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        if not 0 < positive_weight < 1:
            raise InputError(f"positive_weight must be in (0, 1), got {positive_weight}")
        self.options = dict(tolerance=tolerance, positive_weight=positive_weight)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """BCE with a fixed weight on the positives."""
        valid = self.label.valid(target)
        return weighted_bce(logits, target, valid, self.options["positive_weight"])

    def metric(self) -> dict:
        """Boundary F-score and loss."""
        return dict(type="EdgeMetric", task=self.name, **self.options)


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
