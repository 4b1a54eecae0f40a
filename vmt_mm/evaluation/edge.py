"""Edges: F-score of boundaries at the best threshold of the whole set, and the loss.

``boundaryF`` follows the BSDS benchmark's odsF (Arbelaez et al., TPAMI 2011, section 3.1), with one
difference: the benchmark pairs predicted and labelled pixels one to one, here each is right if the
other set has a pixel within the tolerance. So it is never lower, and the two do not compare.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Counts, TaskMetric, ratio
from vmt_mm.registry import METRICS
from vmt_mm.tasks.foreground import THRESHOLDS, weighted_bce

_LEAST = 2.0**-24  # the least probability whose complement float32 still tells from 1
#: Binomial weights; integers keep the smoothed map, and so every comparison, exact.
_SMOOTH = np.array([1, 4, 6, 4, 1], np.float32)
_STRAIGHT = np.array([[0, -1, 0], [1, 0, 1], [0, -1, 0]], np.float32)  # d_xx - d_yy
_SLANTED = np.array([[0.5, 0, -0.5], [0, 0, 0], [-0.5, 0, 0.5]], np.float32)  # 2 d_xy
_NONE = np.iinfo(np.int32).max  # length of a run that is not higher than what lies at its ends


@METRICS.register_module()
class EdgeMetric(TaskMetric):
    """Boundary precision and recall, added up over the set, and their best F over thresholds.

    A prediction is taken in 8 bits, as in files, thinned by :func:`nms_thin`, and cut at 0.05, 0.1
    .. 0.95 (p > t). Precision is the share of the remaining pixels with a labelled edge within the
    tolerance, recall that of labelled edge pixels with a remaining one within it; ignored pixels
    (255) are left out of both. The loss is the task's, over the pixels of the whole set. Arguments
    are those of :class:`~vmt_mm.tasks.edge.Edge`.
    """

    directions = dict.fromkeys(("boundaryF", "precision", "recall"), "greater") | dict(
        threshold=None, loss="less"
    )

    def __init__(
        self, task: str, tolerance: float = 0.0075, positive_weight: float = 0.95, **kwargs: Any
    ) -> None:
        super().__init__(task, **kwargs)
        if not 0 <= tolerance < 1:
            raise InputError(f"{task}: tolerance must be in [0, 1), got {tolerance}")
        self.tolerance, self.positive_weight = tolerance, positive_weight

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Pixels that are predicted and right at every threshold, labelled and found."""
        valid = label != 255
        if not valid.any():
            return {}
        # a probability that has become exactly 0 or 1 counts as a logit of 17
        logits = torch.logit(prediction.double(), eps=_LEAST)
        loss = weighted_bce(logits, label, valid, self.positive_weight)
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
        """F, and precision and recall at its threshold, in percent; no F without a label."""
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
    """Largest value (H, W) uint8 not farther than ``radius`` from each pixel."""
    squares = np.arange(-int(radius), int(radius) + 1) ** 2
    disc = squares + squares[:, None] <= radius * radius
    return cv2.dilate(values, disc.astype(np.uint8))


def _above(bits: np.ndarray) -> np.ndarray:
    """Number of values, of 255ths, above every threshold."""
    # t = k / 20: 255 t = 12.75 k is exact, and v > 255 t from the next integer on
    first = np.floor(12.75 * np.arange(1, len(THRESHOLDS) + 1)).astype(int) + 1
    return np.bincount(bits.ravel(), minlength=256)[::-1].cumsum()[::-1][first]


def nms_thin(values: np.ndarray) -> np.ndarray:
    """Keep the crests of a map (H, W) uint8 at their values; all else becomes 0.

    Non-maximum suppression: the map is smoothed by a 5 x 5 binomial filter. The direction across
    a crest is the one, of right, down and the two diagonals, in which the smoothed map bends down
    most. Pixels of equal value in this direction are one run; of a run that is higher than what
    lies before and behind it the middle stays, of an even number the later one of both. Within a
    flat band the direction is the one, of right and down, in which the run is shorter. What lies
    outside the image counts as higher: a map that rises towards its border has no crest there.
    """
    smooth = cv2.sepFilter2D(
        values.astype(np.float32), cv2.CV_32F, _SMOOTH, _SMOOTH, borderType=cv2.BORDER_REPLICATE
    )
    # The Hessian's eigenvector of the smaller eigenvalue has the double angle of (-a, -b).
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
    """Middles of the runs that are highest along a step, and a measure of each pixel's run."""
    ahead, behind = _runs(smooth, y, x), _runs(smooth, -y, -x)
    is_highest = ahead & behind & 1 == 1
    is_middle = is_highest & ((behind == ahead) | (behind == ahead + 2))
    return is_middle, np.where(is_highest, ahead + behind, _NONE)


def _runs(smooth: np.ndarray, y: int, x: int) -> np.ndarray:
    """Twice the number of equal values that follow along a step, plus 1 if the next is lower."""
    if y == 0:
        return _runs(np.ascontiguousarray(smooth.T), x, 0).T
    if y < 0:
        return _runs(smooth[::-1, ::-1], -y, -x)[::-1, ::-1]
    width = smooth.shape[1]
    here, there = slice(max(0, -x), width - max(0, x)), slice(max(0, x), width + min(0, x))
    one, other = smooth[:-1, here], smooth[1:, there]
    runs = np.zeros(smooth.shape, np.int32)
    runs[:-1, here] = other < one
    same = (other == one) & (one > 0)  # of a 0 nothing can stay
    for row in np.flatnonzero(same.any(axis=1))[::-1]:
        runs[row, here] += (runs[row + 1, there] + 2) * same[row]
    return runs
