"""Base class of task metrics."""

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

Direction = str | None  # which value is better, 'greater' or 'less'; None: not a score
Counts = dict[str, np.ndarray]  # of one image, or of all images stacked along axis 0


class TaskMetric(BaseMetric):
    """Base class of a task's metric: compares ``pred_<task>`` with ``gt_<task>``.

    Subclasses implement :meth:`measure` and :meth:`reduce`; metrics are named ``<task>/<name>``.
    Distributed evaluation is exact: every image, even a skipped one, adds one entry, since mmengine
    removes images repeated by the sampler by their number.
    """

    #: Metric -> direction ('greater' or 'less' is better), primary metric first; None: unknown.
    directions: ClassVar[Mapping[str, Direction] | None] = None

    def __init__(self, task: str, collect_device: str = "cpu") -> None:
        super().__init__(collect_device=collect_device, prefix=task)
        self.task = task

    def declare(self, meta: Mapping[str, Any]) -> dict[str, Direction] | None:
        """Return all possible metrics and their directions, given the task's metainfo."""
        return None if self.directions is None else {**self.directions, "images": None}

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Add one entry per image."""
        for sample in data_samples:
            entry: Counts = {}
            if f"gt_{self.task}" in sample and f"pred_{self.task}" in sample:
                label = sample[f"gt_{self.task}"]["data"]
                prediction = sample[f"pred_{self.task}"]["data"]
                entry = self.measure(prediction, label.to(prediction.device))
            self.results.append(entry)

    def compute_metrics(self, results: list[Counts]) -> dict[str, float]:
        """Reduce the non-empty entries to metrics; warn if the primary one is missing."""
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
                f"{len(results)} image(s) has a valid label"
            )
            print_log(text, "current", logging.WARNING)
        return metrics

    @abstractmethod
    def measure(self, prediction: Tensor, label: Tensor) -> Counts:
        """Return the counts of one image, both inputs (c, H, W); an empty dict skips it."""

    @abstractmethod
    def reduce(self, counts: Counts) -> dict[str, float]:
        """Compute the metrics, by name, from counts stacked along the first axis (images)."""

    def reduce_classes(self, counts: Counts) -> dict[str, float]:
        """Return per-class metrics, ``<name>/<class>``; none by default."""
        return {}


def ratio(part: np.ndarray, total: np.ndarray, empty: float) -> np.ndarray:
    """Divide ``part`` by ``total``; ``empty`` where ``total`` is 0."""
    return np.divide(part, total, out=np.full_like(part, empty), where=total > 0)


def is_of_class(key: str) -> bool:
    """Whether a metric belongs to one class, ``<task>/<name>/<class>``."""
    return key.count("/") > 1
