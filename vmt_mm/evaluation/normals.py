"""Surface normal metrics: angular error."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.evaluation.task_metric import Counts, TaskMetric
from vmt_mm.registry import METRICS

_WITHIN, _BINS = (11.25, 22.5, 30.0), 3600


@METRICS.register_module()
class NormalsMetric(TaskMetric):
    """Angle between predicted and labelled normals over all valid pixels of the dataset.

    Results: ``mErr``, ``median`` and ``rmse`` in degrees; ``within_<t>``, percentage of pixels with
    an error below t = 11.25, 22.5, 30 degrees. The mean is taken over pixels, not over per-image
    means; the median is interpolated in a histogram with 0.05-degree bins.
    """

    directions = dict.fromkeys(("mErr", "median", "rmse"), "less") | {
        f"within_{limit:g}": "greater" for limit in _WITHIN
    }

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Sum errors over the valid pixels of one image."""
        valid = (label != 0).any(dim=0)
        if not valid.any():
            return {}
        p = F.normalize(prediction[:, valid].double(), dim=0)
        cosine = (p * F.normalize(label[:, valid].double(), dim=0)).sum(dim=0)
        angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
        bins = (angle * (_BINS / 180)).long().clamp(max=_BINS - 1)
        return dict(
            pixels=np.array(angle.numel()),
            sum=np.array(float(angle.sum())),
            squares=np.array(float((angle**2).sum())),
            within=np.array([int((angle < limit).sum()) for limit in _WITHIN]),
            histogram=torch.bincount(bins, minlength=_BINS).int().cpu().numpy(),
        )

    def reduce(self, counts: Counts) -> dict[str, float]:
        """Return mean, median and RMSE in degrees, and shares below limits in percent."""
        pixels = int(counts["pixels"].sum())
        shares = 100 * counts["within"].sum(axis=0) / pixels
        histogram = counts["histogram"].sum(axis=0, dtype=np.int64)
        cumulative = np.cumsum(histogram)
        middle = int(np.searchsorted(cumulative, pixels / 2))
        before = cumulative[middle - 1] if middle else 0
        median = middle + (pixels / 2 - before) / histogram[middle]  # in bins
        return dict(
            mErr=float(counts["sum"].sum() / pixels),
            median=float(median * 180 / _BINS),
            rmse=float(np.sqrt(counts["squares"].sum() / pixels)),
            **{f"within_{limit:g}": float(s) for limit, s in zip(_WITHIN, shares, strict=True)},
        )
