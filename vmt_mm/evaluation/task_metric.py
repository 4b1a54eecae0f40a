"""What the metrics of all tasks share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from torch import Tensor


class TaskMetric(BaseMetric):
    """Metric of one task: reads ``gt_<task>`` and ``pred_<task>``, reports ``<task>/<name>``.

    Exact over processes: every image adds exactly one entry of counts, an empty one where it is
    skipped, since the collection drops the sampler's repeated images by counting entries; nothing
    is summed before all entries are together.

    Args:
        task: the task's name, also the prefix of the results.
        collect_device: see ``mmengine.evaluator.BaseMetric``.
    """

    def __init__(self, task: str, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=task)
        self.task = task

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add one entry for every image."""
        for sample in data_samples:
            entry: dict[str, np.ndarray] = {}
            if f"gt_{self.task}" in sample and f"pred_{self.task}" in sample:
                label = sample[f"gt_{self.task}"]["data"]
                prediction = sample[f"pred_{self.task}"]["data"]
                entry = self.measure(prediction, label.to(prediction.device))
            self.results.append(entry)

    def compute_metrics(self, results: list[dict[str, np.ndarray]]) -> dict[str, float]:
        """Reduce the entries of all images; those of skipped images are left out."""
        entries = [entry for entry in results if entry]
        if not entries:
            return {}
        stacked = {key: np.stack([entry[key] for entry in entries]) for key in entries[0]}
        return {**self.reduce(stacked), "images": float(len(entries))}

    @abstractmethod
    def measure(self, prediction: Tensor, label: Tensor) -> dict[str, np.ndarray]:
        """Count one image, both (c, H, W); an empty dictionary skips it."""

    @abstractmethod
    def reduce(self, counts: dict[str, np.ndarray]) -> dict[str, float]:
        """Turn the images' counts, stacked along the first axis, into results."""
