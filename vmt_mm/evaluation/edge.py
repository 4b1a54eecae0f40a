"""Edge metrics: boundary F-score at the best threshold for the dataset, and the loss.

``boundaryF`` follows odsF of the BSDS benchmark (Arbelaez et al., TPAMI 2011, section 3.1), except
for the matching: BSDS matches predicted and labelled pixels one to one; here, a pixel is correct if
any pixel of the other map lies within the tolerance. So ``boundaryF`` >= odsF; do not compare them.
"""

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Counts, TaskMetric, ratio
from vmt_mm.registry import METRICS
from vmt_mm.tasks.foreground import THRESHOLDS
from vmt_mm.tasks.losses import bce

_LEAST = 2.0**-24  # least p for which 1 - p differs from 1 in float32
#: Binomial weights; integers keep the smoothed map and its comparisons exact.
_SMOOTH = np.array([1, 4, 6, 4, 1], np.float32)
_STRAIGHT = np.array([[0, -1, 0], [1, 0, 1], [0, -1, 0]], np.float32)  # d_xx - d_yy
_SLANTED = np.array([[0.5, 0, -0.5], [0, 0, 0], [-0.5, 0, 0.5]], np.float32)  # 2 d_xy
_NONE = np.iinfo(np.int32).max  # length of a run that is not a local maximum


@METRICS.register_module()
class EdgeMetric(TaskMetric):
    """Boundary F-score at the best threshold, with precision and recall over the dataset.

    Predictions are rounded to 8 bits, as in files, thinned by :func:`nms_thin`, and thresholded at
    t = 0.05, 0.1, ..., 0.95 (p > t). Precision is the share of predicted edge pixels with a
    labelled one within the tolerance; recall, the share of labelled edge pixels with a predicted
    one within it. Ignored pixels (255) do not count. ``loss`` is the task's, over all valid pixels.
    For arguments, see :class:`~vmt_mm.tasks.edge.Edge`.
    """

    directions = dict.fromkeys(("boundaryF", "precision", "recall"), "greater") | dict(
        threshold=None, loss="less"
    )

    def __init__(
        self, task: str, tolerance: float = 0.0075, positive_weight: float = 0.95, **kwargs: Any
    ) -> None:
        super().__init__(task, **kwargs)
        if not 0 <= tolerance < 1:
            raise InputError(f"{task}: `tolerance` must be in [0, 1), got {tolerance!r}")
        self.tolerance, self.positive_weight = tolerance, positive_weight

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Count predicted and correct pixels per threshold, and labelled and found ones."""
        valid = label != 255
        if not valid.any():
            return {}
        # a probability rounded to 0 or 1 counts as a logit of about -17 or 17
        logits = torch.logit(prediction.double(), eps=_LEAST)
        loss = bce(logits, label, valid, positive_weight=self.positive_weight)
        bits = (prediction[0].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        edges = label[0].cpu().numpy() == 1
        thinned = np.where(valid[0].cpu().numpy(), nms_thin(bits), np.uint8(0))
        radius = self.tolerance * float(np.hypot(*edges.shape))
        close = _widen(edges.astype(np.uint8), radius) > 0
        return dict(
            predicted=_above(thinned),
            right=_above(thinned[close]),
            label=np.array(int(edges.sum())),
            found=_above(_widen(thinned, radius)[edges]),
            loss=np.array(float(loss * valid.sum())),
            pixels=np.array(int(valid.sum())),
        )

    def reduce(self, counts: Counts) -> dict[str, float]:
        """Return F, precision and recall at the best threshold, in percent; no F without edges."""
        sums = {name: values.sum(axis=0).astype(np.float64) for name, values in counts.items()}
        results = dict(loss=float(sums["loss"] / sums["pixels"]))
        if not sums["label"]:
            return results
        precision = ratio(sums["right"], sums["predicted"], 0.0)
        recall = sums["found"] / sums["label"]
        f_score = ratio(2 * precision * recall, precision + recall, 0.0)
        best = int(f_score.argmax())
        curves = dict(boundaryF=f_score, precision=precision, recall=recall)
        scores = {name: 100 * float(values[best]) for name, values in curves.items()}
        return dict(scores, threshold=float(THRESHOLDS[best]), **results)


def _widen(values: np.ndarray, radius: float) -> np.ndarray:
    """Maximum filter (H, W) uint8 with a disc of ``radius`` pixels."""
    squares = np.arange(-int(radius), int(radius) + 1) ** 2
    disc = squares + squares[:, None] <= radius * radius
    return cv2.dilate(values, disc.astype(np.uint8))


def _above(bits: np.ndarray) -> np.ndarray:
    """Count 8-bit values above each threshold."""
    # t = k / 20: 255 t = 12.75 k is exact; v > 255 t starts at the next integer
    first = np.floor(12.75 * np.arange(1, len(THRESHOLDS) + 1)).astype(int) + 1
    return np.bincount(bits.ravel(), minlength=256)[::-1].cumsum()[::-1][first]


def nms_thin(values: np.ndarray) -> np.ndarray:
    """Thin an edge map (H, W) uint8 by non-maximum suppression: keep crests, set the rest to 0.

    The map is smoothed by a 5 x 5 binomial filter. The direction across a crest is the direction
    (right, down or a diagonal) in which the smoothed map has the strongest negative curvature.
    Pixels of equal value along it form a run; if both ends of a run are lower, its middle is kept,
    or the later of two middles. In flat bands, the direction (right or down) with the shorter run
    is used. Pixels outside the image count as higher: a map that rises towards its border has no
    crest there.
    """
    smooth = cv2.sepFilter2D(
        values.astype(np.float32), cv2.CV_32F, _SMOOTH, _SMOOTH, borderType=cv2.BORDER_REPLICATE
    )
    # (-a, -b) has twice the angle of the Hessian's eigenvector of the smaller eigenvalue.
    a, b = (
        cv2.filter2D(smooth, cv2.CV_32F, kernel, borderType=cv2.BORDER_REPLICATE)
        for kernel in (_STRAIGHT, _SLANTED)
    )
    (right, of_right), (down, of_down) = (_middles(smooth, *step) for step in ((0, 1), (1, 0)))
    is_down = np.where((a == 0) & (b == 0), of_down < of_right, a > 0)
    crest = np.where(is_down, down, right)
    slanted = np.abs(b) > np.abs(a)
    falling, rising = _middles(smooth, 1, 1)[0], _middles(smooth, -1, 1)[0]
    crest[slanted] = np.where(b < 0, falling, rising)[slanted]
    return np.where(crest, values, np.uint8(0))


def _middles(smooth: np.ndarray, y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the middles of maximal runs along a step (y, x), and each pixel's run length."""
    ahead, behind = _runs(smooth, y, x), _runs(smooth, -y, -x)
    is_highest = ahead & behind & 1 == 1
    is_middle = is_highest & ((behind == ahead) | (behind == ahead + 2))
    return is_middle, np.where(is_highest, ahead + behind, _NONE)


def _runs(smooth: np.ndarray, y: int, x: int) -> np.ndarray:
    """Twice the number of equal values ahead along a step, plus 1 if the next value is lower."""
    if y == 0:
        return _runs(np.ascontiguousarray(smooth.T), x, 0).T
    if y < 0:
        return _runs(smooth[::-1, ::-1], -y, -x)[::-1, ::-1]
    width = smooth.shape[1]
    here, there = slice(max(0, -x), width - max(0, x)), slice(max(0, x), width + min(0, x))
    one, other = smooth[:-1, here], smooth[1:, there]
    runs = np.zeros(smooth.shape, np.int32)
    runs[:-1, here] = other < one
    same = (other == one) & (one > 0)  # zeros are never crests
    for row in np.flatnonzero(same.any(axis=1))[::-1]:
        runs[row, here] += (runs[row + 1, there] + 2) * same[row]
    return runs
