"""Depth metrics: RMSE in metres, relative error, threshold accuracy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vmt_mm.evaluation.task_metric import Counts, TaskMetric
from vmt_mm.registry import METRICS

_RATIO, _DEGREES = 1.25, (1, 2, 3)


@METRICS.register_module()
class DepthMetric(TaskMetric):
    """Depth error over all valid pixels (label > 0) of the dataset.

    Results: ``rmse`` in metres, ``abs_rel`` = mean |p - g| / g, and ``delta_k``, the percentage of
    pixels with max(p / g, g / p) < 1.25^k for k = 1, 2, 3 (Eigen et al., arXiv:1406.2283, section
    4.2). Means are taken over pixels, not over per-image means.
    """

    directions = {"rmse": "less", "abs_rel": "less"} | {f"delta_{k}": "greater" for k in _DEGREES}

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Sum errors over the valid pixels of one image."""
        valid = label[0] != 0
        if not valid.any():
            return {}
        p, g = prediction[0][valid].double(), label[0][valid].double()
        difference, ratio = (p - g).abs(), torch.maximum(p / g, g / p)  # inf for p = 0
        return dict(
            pixels=np.array(g.numel()),
            squares=np.array(float((difference**2).sum())),
            relative=np.array(float((difference / g).sum())),
            within=np.array([int((ratio < _RATIO**k).sum()) for k in _DEGREES]),
        )

    def reduce(self, counts: Counts) -> dict[str, float]:
        """Return RMSE in metres, mean relative error, and accuracies in percent."""
        pixels = int(counts["pixels"].sum())
        shares = 100 * counts["within"].sum(axis=0) / pixels
        return dict(
            rmse=float(np.sqrt(counts["squares"].sum() / pixels)),
            abs_rel=float(counts["relative"].sum() / pixels),
            **{f"delta_{k}": float(share) for k, share in zip(_DEGREES, shares, strict=True)},
        )
