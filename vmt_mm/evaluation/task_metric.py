"""What the metrics of all tasks share."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

Direction = str | None  # a result is better if 'greater' or 'less'; None for a count
Counts = dict[str, np.ndarray]  # of one image, or of all images, stacked along the first axis


class TaskMetric(BaseMetric):
    """Metric of one task: reads ``gt_<task>`` and ``pred_<task>``, reports ``<task>/<name>``.

    Exact over processes: every image adds one entry of counts, an empty one where it is skipped,
    since the collection drops the sampler's repeated images by counting entries.
    """

    #: Name of a result -> which way it is better, the main one first; None declares nothing.
    directions: ClassVar[Mapping[str, Direction] | None] = None

    def __init__(self, task: str, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=task)
        self.task = task

    def declare(self, meta: Mapping[str, Any]) -> dict[str, Direction] | None:
        """Every result that this metric may write, by the task's metainfo; None if unknown."""
        return None if self.directions is None else {**self.directions, "images": None}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add one entry for every image."""
        for sample in data_samples:
            entry: Counts = {}
            if f"gt_{self.task}" in sample and f"pred_{self.task}" in sample:
                label = sample[f"gt_{self.task}"]["data"]
                prediction = sample[f"pred_{self.task}"]["data"]
                entry = self.measure(prediction, label.to(prediction.device))
            self.results.append(entry)

    def compute_metrics(self, results: list[Counts]) -> dict[str, float]:
        """Reduce the entries of the images that count; warn if the main result is missing."""
        entries = [entry for entry in results if entry]
        metrics: dict[str, float] = {}
        if entries:
            stacked = {key: np.stack([entry[key] for entry in entries]) for key in entries[0]}
            metrics = {**self.reduce(stacked), "images": float(len(entries))}
            metrics |= self.reduce_classes(stacked)
        main = next(iter(self.directions or ()), None)
        if not entries or (main and main not in metrics):
            text = (
                f"task {self.task!r}: {main or 'its metric'} is not reported: none of "
                f"{len(results)} image(s) has a label that counts"
            )
            print_log(text, "current", logging.WARNING)
        return metrics

    @abstractmethod
    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Count one image, both (c, H, W); an empty dictionary skips it."""

    @abstractmethod
    def reduce(self, counts: Counts) -> dict[str, float]:
        """Turn the images' counts, stacked along the first axis, into results."""

    def reduce_classes(self, counts: Counts) -> dict[str, float]:
        """Results of single classes, ``<name>/<class>``; none by default."""
        return {}


def ratio(part: np.ndarray, whole: np.ndarray, empty: float) -> np.ndarray:
    """Quotients; ``empty`` where the denominator is 0."""
    return np.divide(part, whole, out=np.full_like(part, empty), where=whole > 0)


def is_of_class(key: str) -> bool:
    """Whether a result is one class's, ``<task>/<name>/<class>``."""
    return key.count("/") > 1
