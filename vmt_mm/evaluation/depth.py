"""Depth metrics: RMSE in metres, relative and logarithmic errors, threshold accuracy."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Counts, TaskMetric
from vmt_mm.registry import METRICS
from vmt_mm.tasks.depth import DepthMap

_RATIO, _DEGREES = 1.25, (1, 2, 3)
_LEAST = 1e-3  # metres below which the logarithm of a prediction is cut off
#: Crop -> top, bottom, left and right border, as shares of the image's sides.
_CROPS = dict(
    garg=(0.40810811, 0.99189189, 0.03594771, 0.96405229),
    eigen=(0.3324324, 0.91351351, 0.0359477, 0.96405229),
    nyu=(45 / 480, 471 / 480, 41 / 640, 601 / 640),
)
_NYU_SIZE = (480, 640)


@METRICS.register_module()
class DepthMetric(TaskMetric):
    """Depth error over all valid pixels of the dataset.

    Results: ``rmse`` in metres, ``abs_rel`` = mean |p - g| / g, ``log10`` = mean |log10 p / g|, and
    ``delta_k``, the percentage of pixels with max(p / g, g / p) < 1.25^k for k = 1, 2, 3 (Eigen et
    al., arXiv:1406.2283, section 4.2). Means are taken over pixels, not over per-image means.
    ``silog``: mean over images of 100 * standard deviation of log p - log g, as in KITTI.
    ``aligned_rmse`` and ``aligned_abs_rel``: the same after each image's prediction is multiplied
    by median(g) / median(p).

    Args:
        min_depth: valid labels are above so many metres; predictions are clamped to it.
        max_depth: valid labels are below so many metres; predictions are clamped to it.
        crop: 'garg' or 'eigen' (KITTI), 'nyu' (Eigen's crop of 480 x 640 pixels), or None.
    """

    directions = dict.fromkeys(
        ("rmse", "abs_rel", "log10", "silog", "aligned_rmse", "aligned_abs_rel"), "less"
    ) | {f"delta_{k}": "greater" for k in _DEGREES}

    def __init__(
        self,
        task: str,
        min_depth: float | None = None,
        max_depth: float | None = None,
        crop: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(task, **kwargs)
        if crop is not None and crop not in _CROPS:
            raise InputError(f"{task}: `crop` must be one of {[*_CROPS]} or None, got {crop!r}")
        self.label, self.crop = DepthMap(min_depth=min_depth, max_depth=max_depth), crop

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Sum errors over the valid pixels of one image."""
        window = self._window(*label.shape[1:])
        label, prediction = label[0][window], prediction[0][window]
        valid = self.label.valid(label)
        if not valid.any():
            return {}
        raw, g = prediction[valid].double(), label[valid].double()
        middle, middle_g = (float(np.median(x.cpu().numpy())) for x in (raw, g))
        least, most = self.label.least or 0, self.label.most
        p, aligned = (x.clamp(least, most) for x in (raw, raw * middle_g / max(middle, _LEAST)))
        ratio = torch.maximum(p / g, g / p)  # inf for p = 0
        logs = p.clamp(min=_LEAST).log() - g.log()
        errors = dict(
            squares=(p - g) ** 2, relative=(p - g).abs() / g, log10=logs.abs() / np.log(10)
        )
        errors |= dict(aligned_squares=(aligned - g) ** 2, aligned_relative=(aligned - g).abs() / g)
        return dict(
            {name: np.array(float(values.sum())) for name, values in errors.items()},
            pixels=np.array(g.numel()),
            silog=np.array(100 * float(logs.std(correction=0))),
            within=np.array([int((ratio < _RATIO**k).sum()) for k in _DEGREES]),
        )

    def reduce(self, counts: Counts) -> dict[str, float]:
        """Return errors, and accuracies in percent."""
        pixels = int(counts["pixels"].sum())
        mean = {name: float(values.sum() / pixels) for name, values in counts.items()}
        shares = 100 * counts["within"].sum(axis=0) / pixels
        return dict(
            rmse=float(np.sqrt(mean["squares"])),
            abs_rel=mean["relative"],
            **{f"delta_{k}": float(share) for k, share in zip(_DEGREES, shares, strict=True)},
            log10=mean["log10"],
            silog=float(counts["silog"].mean()),
            aligned_rmse=float(np.sqrt(mean["aligned_squares"])),
            aligned_abs_rel=mean["aligned_relative"],
        )

    def _window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that are evaluated."""
        if self.crop is None:
            return slice(None), slice(None)
        if self.crop == "nyu" and (height, width) != _NYU_SIZE:
            rule = f"`crop`='nyu' is defined for labels of {_NYU_SIZE} pixels"
            raise InputError(f"{self.task}: {rule}, got {(height, width)}")
        borders = np.array(_CROPS[self.crop]) * [height, height, width, width]
        top, bottom, left, right = (borders + 1e-9).astype(int).tolist()  # rounded down
        return slice(top, bottom), slice(left, right)
