"""Confusion matrix of a task with K classes: counts of pixels, and their picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from vmt_mm.errors import InputError
from vmt_mm.visualization.figure import draw_figure

#: Up to so many classes, shares are written into the cells.
_MAX_NUMBERS = 25


def count_confusion(
    label: np.ndarray, prediction: np.ndarray, classes: int, ignore: int, source: str
) -> np.ndarray:
    """Count pixels by label and prediction, two arrays of the same shape.

    Args:
        label: class indices.
        prediction: class indices.
        classes: K.
        ignore: label of pixels that do not count.
        source: where both come from, for messages.

    Returns:
        (K, K) int64, a row for each label, a column for each prediction.
    """
    if label.shape != prediction.shape:
        raise InputError(
            f"{source}: the prediction is of shape {prediction.shape}, the label of {label.shape}; "
            "predictions must have the size of labels, as protocol A gives them"
        )
    label, prediction = label[label != ignore], prediction[label != ignore].astype(np.int64)
    if prediction.size and prediction.max() >= classes:
        largest = prediction.max()
        raise InputError(f"{source}: predicted class {largest}, classes are 0..{classes - 1}")
    pairs = label.astype(np.int64) * classes + prediction
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str, theme: str) -> np.ndarray:
    """Draw the (K, K) counts in percent of each label's pixels, as an RGB image.

    Args:
        matrix: counts.
        names: K names.
        title: of the picture.
        theme: name of one of matplotlib's colour maps.
    """
    if theme not in colormaps:
        raise InputError(f"--color-theme {theme!r} is no colour map of matplotlib")
    shares = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    count, side = len(names), 3.0 + 0.55 * min(len(names), 40)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axis = figure.add_subplot()
    shown = axis.imshow(shares, cmap=theme, vmin=0, vmax=100)
    figure.colorbar(shown, ax=axis, label="% of the label's pixels", shrink=0.8)
    axis.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(count), names)
    axis.set(xlabel="prediction", ylabel="label", title=title)
    for row, column in np.ndindex(matrix.shape) if count <= _MAX_NUMBERS else ():
        share = shares[row, column]
        dark = np.dot(shown.cmap(shown.norm(share))[:3], (0.299, 0.587, 0.114)) <= 0.5
        style = dict(ha="center", va="center", fontsize=8, color="white" if dark else "black")
        axis.text(column, row, f"{share:.0f}", **style)
    return draw_figure(figure)
