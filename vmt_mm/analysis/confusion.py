"""Confusion matrix of a task with K classes: counts of pixels, and their picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from mmpretrain.evaluation import ConfusionMatrix

from vmt_mm.errors import InputError
from vmt_mm.visualization.figure import draw_figure

#: Up to so many classes, shares are written into the cells.
_MAX_NUMBERS = 25


def count_confusion(
    label: np.ndarray, prediction: np.ndarray, classes: int, ignore: int, source: str
) -> np.ndarray:
    """Count pixels: (K, K) int64, a row for each label, a column for each prediction.

    Both are class indices of one shape; ``ignore`` is the label of pixels that do not count, and
    ``source`` says in messages where they come from.
    """
    if label.shape != prediction.shape:
        raise InputError(
            f"{source}: the prediction is of shape {prediction.shape}, the label of {label.shape}; "
            "predictions must have the size of labels, as protocol A gives them"
        )
    valid = label != ignore
    label, prediction = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    if prediction.size and prediction.max() >= classes:
        largest = prediction.max()
        raise InputError(f"{source}: predicted class {largest}, classes are 0..{classes - 1}")
    pairs = label * classes + prediction
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str, theme: str) -> np.ndarray:
    """Draw (K, K) counts in percent of each label, as an RGB image; ``theme`` is a colour map."""
    if theme not in colormaps:
        raise InputError(f"--color-theme {theme!r} is no colour map of matplotlib")
    shares = torch.from_numpy(matrix) * 100 / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    numbers = len(names) <= _MAX_NUMBERS
    figure = ConfusionMatrix.plot(shares.round().int(), numbers, theme, list(names), show=False)
    figure.suptitle(title)
    return draw_figure(figure)
