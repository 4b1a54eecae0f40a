"""Edges: F-score of boundaries at the best threshold of the whole set, and the loss.

``boundaryF`` follows the optimal-dataset-scale F-measure of the BSDS benchmark (odsF; Arbelaez et
al., TPAMI 2011, section 3.1), with one difference: the benchmark pairs predicted and labelled
pixels one to one, while here each is right if the other set has a pixel within the tolerance. So
several predicted pixels may match one label, and one predicted pixel may find several labels:
precision and recall, and with them F, are never lower than the benchmark's and mostly higher.
Thinning, which the benchmark's inputs have gone through as well, bounds the first; nothing bounds
the second but the tolerance. The two numbers must not be compared with each other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.edge_nms import thin
from vmt_mm.evaluation.task_metric import TaskMetric
from vmt_mm.registry import METRICS
from vmt_mm.tasks.binary import THRESHOLDS, weighted_bce

#: The least probability whose complement float32 still tells from 1.
_LEAST = 2.0**-24


@METRICS.register_module()
class EdgeMetric(TaskMetric):
    """Boundary precision and recall, added up over the set, and their best F over thresholds.

    A prediction is taken in 8 bits, as the files of predictions hold it, thinned by
    :func:`~vmt_mm.evaluation.edge_nms.thin`, and cut at 0.05, 0.1 .. 0.95 (p > t). Precision is the
    share of the remaining pixels with a labelled edge within the tolerance, recall the share of
    labelled edge pixels with a remaining one within it. Labels are taken as they are; ignored
    pixels (255) are left out of both. The loss is the task's, over the pixels of the whole set.

    Args:
        task: see :class:`TaskMetric`.
        tolerance: share of the label's diagonal; a pixel matches up to this distance.
        positive_weight: of the loss, see :class:`~vmt_mm.tasks.edge.Edge`.
        collect_device: see :class:`TaskMetric`.

    Raises:
        InputError: if the tolerance is not in 0..1.
    """

    directions = dict(
        boundaryF="greater", precision="greater", recall="greater", threshold=None, loss="less"
    )

    def __init__(
        self,
        task: str,
        tolerance: float = 0.0075,
        positive_weight: float = 0.95,
        collect_device: str = "cpu",
    ) -> None:
        super().__init__(task, collect_device)
        if not 0 <= tolerance < 1:
            raise InputError(f"{task}: tolerance must be in [0, 1), got {tolerance}")
        self.tolerance = tolerance
        self.positive_weight = positive_weight

    def measure(self, prediction: Tensor, label: Tensor) -> dict[str, np.ndarray]:
        """Pixels that are predicted and right at every threshold, labelled and found."""
        valid = label != 255
        if not valid.any():
            return {}
        # predictions are probabilities: one that has become exactly 0 or 1 counts as a logit of 17
        logits = torch.logit(prediction.double(), eps=_LEAST)
        loss = weighted_bce(logits, label, valid, self.positive_weight)
        pixels = int(valid.sum())
        bits = (prediction[0].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        edges, known = label[0].cpu().numpy() == 1, valid[0].cpu().numpy()
        thinned = np.where(known, thin(bits), 0).astype(np.uint8)
        radius = self.tolerance * float(np.hypot(*edges.shape))
        close = _widen(edges.astype(np.uint8), radius) > 0
        return dict(
            predicted=_above(thinned),
            right=_above(thinned[close]),
            label=np.array(int(edges.sum())),
            found=_above(_widen(thinned, radius)[edges]),
            loss=np.array(float(loss) * pixels),
            pixels=np.array(pixels),
        )

    def reduce(self, counts: dict[str, np.ndarray]) -> dict[str, float]:
        """F, and precision and recall at its threshold, in percent; no F without a label."""
        results = dict(loss=float(counts["loss"].sum() / counts["pixels"].sum()))
        predicted, right, found = (
            counts[k].sum(axis=0).astype(np.float64) for k in ("predicted", "right", "found")
        )
        label = counts["label"].sum()
        if not label:
            return results
        precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
        recall = found / label
        both = precision + recall
        f_score = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
        best = int(f_score.argmax())
        return dict(
            boundaryF=100 * float(f_score[best]),
            precision=100 * float(precision[best]),
            recall=100 * float(recall[best]),
            threshold=float(THRESHOLDS[best]),
            **results,
        )


def _widen(values: np.ndarray, radius: float) -> np.ndarray:
    """Largest value (H, W) uint8 not farther than ``radius`` from each pixel.

    The disc is taken row by row; the maxima over a row's width come from those over powers of 2,
    so that the cost grows with the radius, not with its square.
    """
    height, width = values.shape
    reach = int(radius)
    runs, size = np.pad(values, reach), 1  # maxima over `size` pixels from each on
    widest = np.zeros_like(values)
    for y in range(reach, -1, -1):
        half = int(np.sqrt(radius * radius - y * y))
        while 2 * size <= 2 * half + 1:
            runs = np.maximum(runs[:, :-size], runs[:, size:])
            size *= 2
        first, last = reach - half, reach + half + 1 - size
        row = np.maximum(runs[:, first : first + width], runs[:, last : last + width])
        for shift in {reach - y, reach + y}:
            np.maximum(widest, row[shift : shift + height], out=widest)
    return widest


def _above(bits: np.ndarray) -> np.ndarray:
    """Number of values, of 255ths, above every threshold."""
    histogram = np.bincount(bits.ravel(), minlength=256)
    # t = k / 20: 255 t = 12.75 k is exact, and v > 255 t from the next whole number on
    first = np.floor(12.75 * np.arange(1, len(THRESHOLDS) + 1)).astype(int) + 1
    return histogram[::-1].cumsum()[::-1][first]
