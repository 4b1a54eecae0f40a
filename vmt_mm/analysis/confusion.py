"""Which classes are taken for which: counts of pixels, and their picture.

Letters: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vmt_mm.errors import InputError
from vmt_mm.visualization.figure import draw_figure

#: Up to so many classes, shares are written into the cells.
_MAX_NUMBERS = 25


def count_confusion(
    label: np.ndarray, prediction: np.ndarray, classes: int, ignore: int, source: str
) -> np.ndarray:
    """Count pixels by label and prediction.

    Args:
        label: class indices of any shape.
        prediction: the same shape.
        classes: K.
        ignore: label of pixels that do not count.
        source: where both come from, for messages.

    Returns:
        (K, K) int64, a row for each label, a column for each prediction.

    Raises:
        InputError: if the shapes differ or a prediction is no class.
    """
    if label.shape != prediction.shape:
        raise InputError(
            f"{source}: the prediction is of shape {prediction.shape}, the label of {label.shape}; "
            "predictions must have the size of labels, as protocol A gives them"
        )
    valid = label != ignore
    pairs = label[valid].astype(np.int64) * classes + prediction[valid].astype(np.int64)
    largest = int(prediction[valid].max()) if valid.any() else 0
    if largest >= classes:
        raise InputError(f"{source}: predicted class {largest}, classes are 0..{classes - 1}")
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str, theme: str) -> np.ndarray:
    """Draw shares of each label's pixels, in percent.

    Args:
        matrix: (K, K) counts.
        names: K names.
        title: of the picture.
        theme: name of one of matplotlib's colour maps.

    Returns:
        RGB image, uint8.

    Raises:
        InputError: if there is no such colour map.
    """
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(100.0 * matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    count = len(names)
    side = 3.0 + 0.55 * min(count, 40)
    figure = Figure(figsize=(side + 1, side), dpi=100, layout="constrained")
    axis = figure.add_subplot()
    try:
        shown = axis.imshow(shares, cmap=theme, vmin=0, vmax=100)
    except ValueError:
        raise InputError(f"--color-theme {theme!r} is no colour map of matplotlib") from None
    figure.colorbar(shown, ax=axis, label="% of the label's pixels", shrink=0.8)
    labels = [name if total[i] else f"{name} (no label)" for i, name in enumerate(names)]
    axis.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(count), labels)
    axis.set_xlabel("prediction")
    axis.set_ylabel("label")
    axis.set_title(title)
    if count <= _MAX_NUMBERS:
        for row, column in np.ndindex(matrix.shape):
            share = shares[row, column]
            luminance = np.dot(shown.cmap(shown.norm(share))[:3], (0.299, 0.587, 0.114))
            color = "black" if luminance > 0.5 else "white"
            axis.text(
                column, row, f"{share:.0f}", ha="center", va="center", color=color, fontsize=8
            )
    return draw_figure(figure)
