"""Saliency metrics: Jaccard and F-measure over thresholds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import Counts, TaskMetric, ratio
from vmt_mm.registry import METRICS

THRESHOLDS = tuple(round(0.2 + 0.05 * i, 2) for i in range(15))


@METRICS.register_module()
class SaliencyMetric(TaskMetric):
    """Foreground Jaccard and F-measure at their best thresholds, and two-class IoU at 0.5.

    Results, in percent: ``mIoU`` (mean Jaccard over images at the best ``threshold``), ``maxF``,
    and ``two_class_mIoU`` over all pixels. Foreground: probability > threshold.

    Args:
        thresholds: thresholds in [0, 1) of the Jaccard; None means 0.2, 0.25, ..., 0.9.
        f_thresholds: thresholds of the F-measure; None means ``thresholds``.
        beta_squared: beta^2 = b in F = (1 + b) P R / (b P + R).
        average: P and R of ``maxF`` are means over 'images', or over all pixels of the 'set'.
    """

    directions = dict(mIoU="greater", maxF="greater", threshold=None, two_class_mIoU="greater")

    def __init__(
        self,
        task: str,
        thresholds: Sequence[float] | None = None,
        f_thresholds: Sequence[float] | None = None,
        beta_squared: float = 1.0,
        average: str = "images",
        **kwargs: Any,
    ) -> None:
        super().__init__(task, **kwargs)
        thresholds = THRESHOLDS if thresholds is None else thresholds
        f_thresholds = thresholds if f_thresholds is None else f_thresholds
        for name, values in dict(thresholds=thresholds, f_thresholds=f_thresholds).items():
            if not len(values) or not all(0 <= t < 1 for t in values):
                raise InputError(f"{task}: `{name}` must be numbers in [0, 1), got {values!r}")
        if beta_squared <= 0 or average not in ("images", "set"):
            rule = "`beta_squared` must be positive, and `average` 'images' or 'set'"
            raise InputError(f"{task}: {rule}, got {beta_squared!r} and {average!r}")
        self.thresholds, self.f_thresholds = tuple(thresholds), tuple(f_thresholds)
        self.beta_squared, self.average = beta_squared, average

    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Count pixels per threshold: those of the Jaccard, of the F-measure, and 0.5."""
        valid = label[0] != 255
        if not valid.any():
            return {}
        probability, truth = prediction[0][valid].float(), label[0][valid] == 1
        cuts = torch.tensor([*self.thresholds, *self.f_thresholds, 0.5], device=probability.device)
        # The number of thresholds below a pixel's value determines its decision at each one.
        order = torch.argsort(cuts)
        bucket = torch.bucketize(probability, cuts[order])  # p > cuts[order[i]] iff bucket > i

        def above(values: Tensor) -> np.ndarray:
            histogram = torch.bincount(values, minlength=len(cuts) + 1)
            tail = histogram.flip(0).cumsum(0).flip(0)[1:]
            return tail[torch.argsort(order)].cpu().numpy()

        sizes = dict(label=np.array(int(truth.sum())), pixels=np.array(truth.numel()))
        return dict(true=above(bucket[truth]), predicted=above(bucket), **sizes)

    def reduce(self, counts: Counts) -> dict[str, float]:
        """Return metrics in percent, and the best threshold of the Jaccard."""
        numbers = {name: values.astype(np.float64) for name, values in counts.items()}
        true, predicted = numbers["true"], numbers["predicted"]  # (N, K + K_F + 1)
        label, union = numbers["label"][:, None], predicted + numbers["label"][:, None] - true
        count = len(self.thresholds)
        foreground = ratio(true, union, 1.0)[:, :count].mean(axis=0)
        f_measure = self._f_measure(true[:, count:-1], predicted[:, count:-1], label)
        tp, fp_fn = true[:, -1].sum(), (union - true)[:, -1].sum()
        tn = numbers["pixels"].sum() - union[:, -1].sum()
        both = [x / (x + fp_fn) if x + fp_fn > 0 else 1.0 for x in (tp, tn)]
        return dict(
            mIoU=100 * float(foreground.max()),
            maxF=100 * float(f_measure.max()),
            threshold=float(self.thresholds[foreground.argmax()]),
            two_class_mIoU=100 * float(np.mean(both)),
        )

    def _f_measure(self, true: np.ndarray, predicted: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Compute F per threshold (K,) from counts (N, K), (N, K) and (N, 1)."""
        if self.average == "set":
            true, predicted, label = (x.sum(axis=0)[None] for x in (true, predicted, label))
        # precision is 1 if nothing is predicted, recall is 1 if nothing is labelled
        p, r = ratio(true, predicted, 1.0).mean(axis=0), ratio(true, label, 1.0).mean(axis=0)
        product = (1 + self.beta_squared) * p * r
        return ratio(product, self.beta_squared * p + r, 0.0)
