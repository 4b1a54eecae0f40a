"""Predictions drawn over their image, at its size."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task

_TITLE_HEIGHT = 22


def blend(image: np.ndarray, drawn: np.ndarray, opacity: float) -> np.ndarray:
    """Lay a drawing over an image.

    Args:
        image: (H, W, 3), uint8.
        drawn: (h, w, 3), uint8, of the same channel order; the image is brought to its size.
        opacity: of the drawing, 0..1.

    Returns:
        (h, w, 3), uint8.
    """
    if opacity >= 1:
        return drawn
    height, width = drawn.shape[:2]
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.addWeighted(drawn, opacity, image, 1 - opacity, 0)


def draw_overlay(
    image: np.ndarray,
    sample: MultiTaskDataSample,
    task: Task,
    meta: Mapping,
    opacity: float = 1.0,
) -> np.ndarray:
    """Draw the prediction of one task over the image.

    Args:
        image: (H, W, 3) RGB, uint8.
        sample: with a prediction of the task.
        task: the task.
        meta: the data set's metainfo, by task.
        opacity: of the prediction, 0..1.

    Returns:
        RGB image of the prediction's size, uint8.
    """
    values = sample.prediction(task.name).cpu().numpy()
    return blend(image, task.draw(values, meta.get(task.name, {})), opacity)


def draw_strip(
    image: np.ndarray,
    sample: MultiTaskDataSample,
    tasks: Mapping[str, Task],
    meta: Mapping,
    opacity: float = 1.0,
    height: int | None = None,
) -> np.ndarray:
    """Draw the image and the predictions side by side: frames of one video give equal sizes.

    Args:
        image: (H, W, 3) RGB, uint8.
        sample: its predictions; tasks without one are left out.
        tasks: the tasks to show.
        meta: the data set's metainfo, by task.
        opacity: of the predictions, 0..1.
        height: of every tile; the image's by default.

    Returns:
        RGB image, uint8, of even sides, as video encoders want.
    """
    tiles = {"image": image}
    for name, task in tasks.items():
        if sample.prediction(name) is not None:
            tiles[name] = draw_overlay(image, sample, task, meta, opacity)
    height = height or image.shape[0]
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    strip = np.concatenate([_tile(*tile, (width, height)) for tile in tiles.items()], axis=1)
    odd = [(0, side % 2) for side in strip.shape[:2]]
    return np.pad(strip, [*odd, (0, 0)])


def _tile(title: str, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image of ``size`` (width, height) below its title."""
    if image.shape[1::-1] != size:
        smaller = size[0] < image.shape[1]
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        image = cv2.resize(image, size, interpolation=method)
    bar = np.zeros((_TITLE_HEIGHT, size[0], 3), np.uint8)
    cv2.putText(
        bar, title, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA
    )
    return np.concatenate([bar, image])
