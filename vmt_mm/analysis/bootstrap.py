"""How sure a difference of mean IoU is, by resampling the images it was measured on.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
Letters: S trainings of a method, N images, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmt_mm.errors import InputError
from vmt_mm.evaluation.iou import SegmentationMetric
from vmt_mm.tasks import Segmentation
from vmt_mm.utils.compat import from_numpy
from vmt_mm.utils.layout import files_by_id

#: Resamples that are computed with at a time.
_AT_ONCE = 500


@dataclass(frozen=True)
class Difference:
    """A method's mean IoU less another one's, points of percent.

    Attributes:
        first: mean over its trainings.
        second: mean over its trainings.
        value: first - second.
        low: end of the interval.
        high: other end of the interval.
        classes: indices of the classes that count.
        images: how many were resampled.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    classes: tuple[int, ...]
    images: int


def count_pixels(task: Segmentation, labels: Path, predictions: Path) -> dict[str, np.ndarray]:
    """Count the pixels of every image and class.

    Args:
        task: what the files mean.
        labels: folder of them.
        predictions: folder of the same ids.

    Returns:
        ``true``, ``predicted`` and ``label``, (N, C) each, images in the order of their ids.

    Raises:
        InputError: if no image has both prediction and label, or their sizes differ, or no pixel
            has a label.
    """
    metric = SegmentationMetric(task.name, task.out_channels)
    files = files_by_id(predictions, (task.label.suffix,))
    if not files:
        raise InputError(f"{predictions}: holds no prediction *{task.label.suffix}")
    known = files_by_id(labels, task.label.suffixes)
    names = sorted(files.keys() & known.keys())
    if not names:
        raise InputError(f"{labels}: has no label for {min(files)}, nor for any other prediction")
    rows = []
    for name in names:
        path = files[name]
        prediction, label = task.label.decode_prediction(path), task.label.decode(known[name])
        values = [from_numpy(prediction), from_numpy(label)]
        if values[0].shape != values[1].shape:
            raise InputError(
                f"{path}: is of size {tuple(values[0].shape)}, its label of "
                f"{tuple(values[1].shape)}"
            )
        rows.append(metric.measure(*values))
    rows = [row for row in rows if row]  # of images that have a label anywhere
    if not rows:
        raise InputError(f"{labels}: no pixel of the {len(names)} image(s) predicted has a label")
    return {key: np.stack([row[key] for row in rows]) for key in ("true", "predicted", "label")}


def compare(
    first: Sequence[dict[str, np.ndarray]],
    second: Sequence[dict[str, np.ndarray]],
    min_images: int,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> Difference:
    """Interval of the difference of mean IoU, over images; trainings are averaged.

    Every resample draws N images with replacement, the same for all trainings of both methods.

    Args:
        first: counts of each training of a method, see :func:`count_pixels`.
        second: counts of each training of the other one.
        min_images: a class counts if so many images have it.
        samples: R.
        seed: of the resamples.
        level: of the interval.

    Raises:
        InputError: if the trainings were not tested on the same images, or no class counts.
    """
    labels = first[0]["label"]
    if any(not np.array_equal(counts["label"], labels) for counts in (*first, *second)):
        raise InputError("the predictions are not of the same images")
    classes = np.flatnonzero((labels > 0).sum(axis=0) >= min_images)
    if not len(classes):
        raise InputError(f"no class is in {min_images} images or more")
    images = len(labels)
    draws = np.random.default_rng(seed).multinomial(
        images, np.full(images, 1 / images), size=samples
    )  # (R, N): how often each image is drawn
    weights = np.concatenate([np.ones((1, images), np.int64), draws])
    scores = [np.mean([_mean_iou(c, weights, classes) for c in group], axis=0)
              for group in (first, second)]  # fmt: skip
    (own, *_), (other, *_) = scores
    spread = (scores[0] - scores[1])[1:]
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
    return Difference(own, other, own - other, low, high, tuple(map(int, classes)), images)


def _mean_iou(counts: dict[str, np.ndarray], weights: np.ndarray, classes: np.ndarray
              ) -> np.ndarray:  # fmt: skip
    """(R,) percent; a class that a resample has nowhere is left out of its mean."""
    parts = []
    for start in range(0, len(weights), _AT_ONCE):
        rows = weights[start : start + _AT_ONCE].astype(np.float64)
        true, predicted, label = (
            rows @ counts[key][:, classes] for key in ("true", "predicted", "label")
        )
        union = predicted + label - true
        iou = np.divide(true, union, out=np.full_like(true, np.nan), where=union > 0)
        parts.append(100 * np.nanmean(iou, axis=1))
    return np.concatenate(parts)
