"""Saliency: Jaccard and F-measure over thresholds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vmt_mm.evaluation.task_metric import TaskMetric
from vmt_mm.registry import METRICS

#: 0.2, 0.25 .. 0.9.
THRESHOLDS = np.round(np.arange(15) * 0.05 + 0.2, 2)


@METRICS.register_module()
class SaliencyMetric(TaskMetric):
    """Foreground Jaccard and F-measure at the best threshold, two-class IoU at 0.5.

    Predictions are probabilities; no sigmoid is applied here.
    """

    def measure(self, prediction: Tensor, label: Tensor) -> dict[str, np.ndarray]:
        """Counts at every threshold, and at 0.5."""
        valid = label[0] != 255
        if not valid.any():
            return {}
        probability, truth = prediction[0][valid].float(), label[0][valid] == 1
        cuts = torch.tensor([*THRESHOLDS, 0.5], dtype=probability.dtype, device=probability.device)
        # The number of thresholds below a pixel's value tells its decision at all of them.
        order = torch.argsort(cuts)
        bucket = torch.bucketize(probability, cuts[order])  # p > cuts[order[i]] iff bucket > i

        def above(values: Tensor) -> np.ndarray:
            histogram = torch.bincount(values, minlength=len(cuts) + 1)
            tail = histogram.flip(0).cumsum(0).flip(0)[1:]
            return tail[torch.argsort(order)].cpu().numpy()

        return dict(
            true=above(bucket[truth]),
            predicted=above(bucket),
            label=np.array(int(truth.sum())),
            pixels=np.array(truth.numel()),
        )

    def reduce(self, counts: dict[str, np.ndarray]) -> dict[str, float]:
        """Everything in percent."""
        true, predicted = (counts[k].astype(np.float64) for k in ("true", "predicted"))  # (N, 16)
        label, pixels = (counts[k].astype(np.float64)[:, None] for k in ("label", "pixels"))
        union = predicted + label - true
        jaccard = np.divide(true, union, out=np.ones_like(true), where=union > 0)
        # nothing predicted: no wrong positive; nothing to find: nothing missed
        precision = np.divide(true, predicted, out=np.ones_like(true), where=predicted > 0)
        recall = np.divide(
            true, np.broadcast_to(label, true.shape), out=np.ones_like(true), where=label > 0
        )
        p, r = precision[:, :-1].mean(axis=0), recall[:, :-1].mean(axis=0)
        f_measure = np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=p + r > 0)
        foreground = jaccard[:, :-1].mean(axis=0)
        tp, fp_fn = true[:, -1].sum(), (union - true)[:, -1].sum()
        tn = pixels.sum() - union[:, -1].sum()
        both = [x / (x + fp_fn) if x + fp_fn > 0 else 1.0 for x in (tp, tn)]
        return dict(
            mIoU=100 * float(foreground.max()),
            maxF=100 * float(f_measure.max()),
            threshold=float(THRESHOLDS[foreground.argmax()]),
            two_class_mIoU=100 * float(np.mean(both)),
        )
