"""Predictions drawn over their image, at its size."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task

_TITLE_HEIGHT = 22


def blend(image: np.ndarray, drawn: np.ndarray, opacity: float) -> np.ndarray:
    """Lay a drawing (h, w, 3), uint8, over an image (H, W, 3), which is resized to its size."""
    if opacity >= 1:
        return drawn
    if image.shape != drawn.shape:
        image = cv2.resize(image, drawn.shape[1::-1], interpolation=cv2.INTER_AREA)
    return cv2.addWeighted(drawn, opacity, image, 1 - opacity, 0)


def draw_overlay(
    image: np.ndarray, sample: MultiTaskDataSample, task: Task, meta: Mapping, opacity: float = 1.0
) -> np.ndarray:
    """Draw the prediction of one task over the image (H, W, 3); both are RGB, uint8."""
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

    Tasks without a prediction are left out. Tiles are as high as the image unless ``height`` says
    otherwise. Both sides of the strip are even, as video encoders want.
    """
    predicted = {k: task for k, task in tasks.items() if sample.prediction(k) is not None}
    drawn = {k: draw_overlay(image, sample, task, meta, opacity) for k, task in predicted.items()}
    height = height or image.shape[0]
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    tiles = [_tile(*tile, (width, height)) for tile in {"image": image, **drawn}.items()]
    strip = np.concatenate(tiles, axis=1)
    return np.pad(strip, [*((0, side % 2) for side in strip.shape[:2]), (0, 0)])


def _tile(title: str, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image of ``size`` (width, height) below its title."""
    how = cv2.INTER_AREA if size[0] < image.shape[1] else cv2.INTER_LINEAR
    image = cv2.resize(image, size, interpolation=how)
    bar, white = np.zeros((_TITLE_HEIGHT, size[0], 3), np.uint8), (255, 255, 255)
    cv2.putText(bar, title, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, white, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])
