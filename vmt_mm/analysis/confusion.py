"""Confusion matrix of a task with K classes: pixel counts and figure."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib import colormaps
from mmpretrain.evaluation import ConfusionMatrix

from vmt_mm.errors import InputError
from vmt_mm.visualization.figure import draw_figure


def count_confusion(
    label: np.ndarray, prediction: np.ndarray, classes: int, ignore: int, source: str
) -> np.ndarray:
    """Count pixels whose label is not ``ignore``: (K, K) with rows labels, columns predictions."""
    if label.shape != prediction.shape:
        shapes = f"the prediction has shape {prediction.shape}, the label {label.shape}"
        raise InputError(f"{source}: {shapes}; predict by protocol A, at the labels' size")
    valid = label != ignore
    label, prediction = label[valid].astype(np.int64), prediction[valid].astype(np.int64)
    if (largest := prediction.max(initial=0)) >= classes:
        raise InputError(f"{source}: predicted class {largest}; classes are in [0, {classes - 1}]")
    pairs = label * classes + prediction
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def draw_confusion(matrix: np.ndarray, names: Sequence[str], title: str, theme: str) -> np.ndarray:
    """Draw (K, K) counts as percentages of each label, as RGB; ``theme`` is a colormap."""
    if theme not in colormaps:
        raise InputError(f"--color-theme must be a Matplotlib colormap, got {theme!r}")
    shares = torch.from_numpy(matrix) * 100 / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    numbers = len(names) <= 25  # otherwise the cells are too small
    figure = ConfusionMatrix.plot(shares.round().int(), numbers, theme, list(names), show=False)
    figure.suptitle(title)
    return draw_figure(figure)
