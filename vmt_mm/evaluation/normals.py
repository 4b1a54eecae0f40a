"""Surface normals: angular error."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.evaluation.task_metric import TaskMetric
from vmt_mm.registry import METRICS

_WITHIN = (11.25, 22.5, 30.0)
#: Bins of the histogram from which the median comes: 0.05 degrees wide.
_BINS = 3600


@METRICS.register_module()
class NormalsMetric(TaskMetric):
    """Angle between predicted and labelled normals, over all valid pixels of the whole set.

    The mean is over pixels, not of the images' means; the median comes from a histogram of
    0.05-degree bins, by linear interpolation; among an even number of pixels with a gap in the
    middle it is the lower one.
    """

    directions = dict(
        mErr="less",
        median="less",
        rmse="less",
        **{f"within_{limit:g}": "greater" for limit in _WITHIN},
    )

    def measure(self, prediction: Tensor, label: Tensor) -> dict[str, np.ndarray]:
        """Sums over the image's valid pixels."""
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

    def reduce(self, counts: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean, median and RMSE in degrees, shares under limits in percent."""
        pixels = int(counts["pixels"].sum())
        shares = 100 * counts["within"].sum(axis=0) / pixels
        return dict(
            mErr=float(counts["sum"].sum() / pixels),
            median=_median(counts["histogram"].sum(axis=0, dtype=np.int64)) * 180 / _BINS,
            rmse=float(np.sqrt(counts["squares"].sum() / pixels)),
            **{f"within_{limit:g}": float(s) for limit, s in zip(_WITHIN, shares, strict=True)},
        )


def _median(histogram: np.ndarray) -> float:
    """Median in units of bins, by linear interpolation within the median's bin."""
    cumulative = np.cumsum(histogram)
    half = cumulative[-1] / 2
    index = int(np.searchsorted(cumulative, half))
    before = cumulative[index - 1] if index else 0
    return index + (half - before) / histogram[index]
