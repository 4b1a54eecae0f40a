"""Confidence interval of a difference of mean IoU, by resampling the test images.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

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

#: Pixels of N images and C classes: ``true``, ``predicted`` and ``label``, (N, C) each.
Counts = Mapping[str, np.ndarray]


def count_pixels(task: Segmentation, labels: Path, predictions: Path) -> Counts:
    """Count the pixels of every image and class.

    Args:
        task: what the files mean.
        labels: folder of label files.
        predictions: folder of predictions with the same names.

    Raises:
        InputError: if no image has both prediction and label, or their sizes differ, or no pixel
            has a label.
    """
    metric = SegmentationMetric(task.name, task.out_channels)
    files = list_files(predictions, (task.label.suffix,)).files
    if not files:
        raise InputError(f"{predictions}: holds no prediction *{task.label.suffix}")
    known = list_files(labels, task.label.suffixes).files
    names, rows = sorted(files.keys() & known.keys()), []
    for name in names:
        prediction = from_numpy(task.label.decode_prediction(files[name]))
        label = from_numpy(task.label.decode(known[name]))
        if prediction.shape != label.shape:
            raise InputError(
                f"{files[name]}: is of size {tuple(prediction.shape)}, its label of "
                f"{tuple(label.shape)}"
            )
        rows.append(metric.measure(prediction, label))
    rows = [row for row in rows if row]  # of images with labelled pixels
    if not rows:
        raise InputError(f"{labels}: no pixel of the {len(names)} image(s) predicted has a label")
    return {key: np.stack([row[key] for row in rows]) for key in ("true", "predicted", "label")}


def compare(
    first: Sequence[Counts],
    second: Sequence[Counts],
    min_images: int,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> dict[str, Any]:
    """Interval of the difference of mean IoU over images, averaged over trainings.

    Args:
        first: counts of each training of a method, see :func:`count_pixels`.
        second: those of the other method.
        min_images: a class counts if at least so many images have it.
        samples: number of resamples; each is the same for all trainings.
        seed: of the resamples.
        level: of the interval.

    Returns:
        Mean IoU of the methods as ``first`` and ``second``, their difference ``value`` with the
        interval ``low`` to ``high``, all in percent; indices of ``classes``; number of ``images``.

    Raises:
        InputError: if the trainings were not tested on the same images, or no class counts.
    """
    labels = first[0]["label"]
    if any(not np.array_equal(counts["label"], labels) for counts in (*first, *second)):
        raise InputError("the predictions are not of the same images")
    classes = np.flatnonzero((labels > 0).sum(axis=0) >= min_images)
    if len(labels) < 2 or not len(classes):
        raise InputError(f"no class is in {min_images} images or more, of {len(labels)}")

    def scores(drawn: np.ndarray) -> list[np.ndarray]:
        return [np.mean([_mean_iou(counts, drawn, classes) for counts in group], axis=0)
                for group in (first, second)]  # fmt: skip

    def difference(drawn: np.ndarray, axis: int) -> np.ndarray:
        return np.subtract(*scores(drawn))

    every = np.arange(len(labels))
    found = stats.bootstrap(
        (every,), difference, n_resamples=samples, batch=500, axis=-1, confidence_level=level,
        method="percentile", random_state=np.random.default_rng(seed),
    )  # fmt: skip
    own, other = map(float, scores(every))
    low, high = map(float, found.confidence_interval)
    return dict(first=own, second=other, value=own - other, low=low, high=high,
                classes=classes.tolist(), images=len(labels))  # fmt: skip


def _mean_iou(counts: Counts, drawn: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Mean IoU in percent of drawn images (..., N); classes that they lack are left out."""
    weights = np.apply_along_axis(np.bincount, -1, drawn, minlength=drawn.shape[-1]).astype(float)
    true, predicted, label = (
        weights @ counts[key][:, classes] for key in ("true", "predicted", "label")
    )
    union = predicted + label - true
    iou = np.divide(true, union, out=np.full_like(true, np.nan), where=union > 0)
    return 100 * np.nanmean(iou, axis=-1)
