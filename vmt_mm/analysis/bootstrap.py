"""Bootstrap confidence interval of a difference of mean IoU, by resampling the test images.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from vmt_mm.errors import InputError
from vmt_mm.evaluation.iou import SegmentationMetric
from vmt_mm.tasks import Segmentation
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.layout import list_files

#: Pixel counts of N images and C classes: ``true``, ``predicted`` and ``label``, (N, C) each.
Counts = Mapping[str, np.ndarray]


def count_pixels(task: Segmentation, labels: Path, predictions: Path) -> Counts:
    """Count pixels per image and class, in two folders with the same file names."""
    metric, rows = SegmentationMetric(task.name, task.out_channels), []
    files = list_files(predictions, (task.label.suffix,)).files
    if not files:
        raise InputError(f"{predictions}: contains no prediction *{task.label.suffix}")
    known = list_files(labels, task.label.suffixes).files
    names = sorted(files.keys() & known.keys())
    for name in names:
        prediction = from_numpy(task.label.decode_prediction(files[name]))
        label = from_numpy(task.label.decode(known[name]))
        if prediction.shape != label.shape:
            sizes = f"{tuple(prediction.shape)}, its label has {tuple(label.shape)}"
            raise InputError(f"{files[name]}: has size {sizes}")
        if counts := metric.measure(prediction, label):
            rows.append(counts)
    if not rows:
        raise InputError(f"{labels}: no labelled pixel in {len(names)} file(s) with a prediction")
    return {key: np.stack([row[key] for row in rows]) for key in ("true", "predicted", "label")}


def compare(
    methods: Sequence[Sequence[Counts]], min_images: int, samples: int, seed: int
) -> dict[str, Any]:
    """Compute the 95 % interval of the difference of two methods' mean IoU, in percent.

    A method is the list of counts of its training runs. Classes in fewer than ``min_images`` images
    are left out. ``samples`` is the number of resamples.
    """
    labels = methods[0][0]["label"]
    if any(not np.array_equal(counts["label"], labels) for own in methods for counts in own):
        raise InputError("all predictions must be of the same images")
    classes = np.flatnonzero((labels > 0).sum(axis=0) >= min_images)
    if len(labels) < 2 or not len(classes):
        raise InputError(f"no class occurs in at least {min_images} of the {len(labels)} images")

    def scores(drawn: np.ndarray) -> list[np.ndarray]:
        return [np.mean([_mean_iou(one, drawn, classes) for one in own], axis=0) for own in methods]

    every = np.arange(len(labels))
    found = stats.bootstrap(
        (every,), lambda drawn, axis: np.subtract(*scores(drawn)), n_resamples=samples, batch=500,
        axis=-1, method="percentile", random_state=np.random.default_rng(seed),
    )  # fmt: skip
    first, second = map(float, scores(every))
    low, high = map(float, found.confidence_interval)
    return dict(first=first, second=second, value=first - second, low=low, high=high,
                classes=classes.tolist(), images=len(labels))  # fmt: skip


def _mean_iou(counts: Counts, drawn: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean IoU, in percent, of drawn images (..., N) over the classes that occur in them."""
    weights = np.apply_along_axis(np.bincount, -1, drawn, minlength=drawn.shape[-1]).astype(float)
    keys = ("true", "predicted", "label")
    true, predicted, label = (weights @ counts[key][:, classes] for key in keys)
    union = predicted + label - true
    iou = np.divide(true, union, out=np.full_like(true, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=-1)
