"""Bootstrap confidence interval of a difference of a metric, by resampling the test images.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from vmt_mm.errors import InputError
from vmt_mm.evaluation.iou import SegmentationMetric
from vmt_mm.evaluation.task_metric import Counts
from vmt_mm.registry import METRICS
from vmt_mm.tasks import Task
from vmt_mm.utils.layout import list_files


def measure_files(task: Task, labels: Path, predictions: Path) -> dict[str, Counts]:
    """Measure the images of two folders with the same file names: id -> counts of its metric."""
    metric = METRICS.build(task.metric())
    files = list_files(predictions, (task.label.suffix,)).files
    if not files:
        raise InputError(f"{predictions}: contains no prediction *{task.label.suffix}")
    known = list_files(labels, task.label.suffixes).files
    counts, names = {}, sorted(files.keys() & known.keys())
    for name in names:
        prediction = task.label.to_tensor(task.label.decode_prediction(files[name]))
        label = task.label.to_tensor(task.label.decode(known[name]))
        if prediction.shape != label.shape:
            sizes = f"{tuple(prediction.shape[1:])}, its label has {tuple(label.shape[1:])}"
            raise InputError(f"{files[name]}: has size {sizes}")
        if found := metric.measure(prediction, label):
            counts[name] = found
    if not counts:
        raise InputError(f"{labels}: no labelled pixel in {len(names)} file(s) with a prediction")
    return counts


def compare(
    task: Task, methods: Sequence[Sequence[dict[str, Counts]]], key: str | None = None,
    min_images: int = 1, samples: int = 10_000, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Compute the 95 % interval of the difference of two methods in a result of the task's metric.

    A method is the list of counts of its training runs, whose results are averaged. ``key`` is the
    result, by default the primary one. A segmentation's classes in fewer than ``min_images`` images
    are left out. ``samples`` is the number of resamples.
    """
    metric, names = METRICS.build(task.metric()), list(methods[0][0])
    key = key or str(task.primary_metric)
    if any(list(counts) != names for own in methods for counts in own):
        raise InputError("all predictions must be of the same images")
    if len(names) < 2:
        raise InputError(f"expected predictions of two or more images, got {len(names)}")
    stacks = [[_stack(counts) for counts in own] for own in methods]
    result: dict[str, Any] = dict(metric=key, images=len(names))
    if isinstance(metric, SegmentationMetric):
        classes = np.flatnonzero((stacks[0][0]["label"] > 0).sum(axis=0) >= min_images)
        if not len(classes):
            raise InputError(f"no class occurs in at least {min_images} of the {len(names)} images")
        stacks = [[{k: x[:, classes] for k, x in one.items()} for one in own] for own in stacks]
        result["classes"] = classes.tolist()
    if key not in (known := metric.reduce(stacks[0][0])):
        raise InputError(f"{task.name} has no result {key!r}; it has {', '.join(known)}")

    def score(drawn: np.ndarray) -> list[np.floating]:
        parts = [[{k: x[drawn] for k, x in one.items()} for one in own] for own in stacks]
        return [np.mean([metric.reduce(one)[key] for one in own]) for own in parts]

    every = np.arange(len(names))
    found = stats.bootstrap(
        (every,), lambda drawn: np.subtract(*score(drawn)), n_resamples=samples, batch=500,
        vectorized=False, method="percentile", random_state=np.random.default_rng(seed),
    )  # fmt: skip
    first, second = map(float, score(every))
    low, high = map(float, found.confidence_interval)
    return dict(result, first=first, second=second, value=first - second, low=low, high=high)


def _stack(counts: dict[str, Counts]) -> Counts:
    rows = list(counts.values())
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
