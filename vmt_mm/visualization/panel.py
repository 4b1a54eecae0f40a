"""One picture that shows an image and what the model makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task
from vmt_mm.visualization.figure import draw_figure
from vmt_mm.visualization.overlay import blend

_DPI = 100
_COLUMN_INCHES = 2.6
_TITLE_INCHES = 0.27
_LEGEND_INCHES = 0.2
_GAP_INCHES = 0.08
_MAX_LEGEND = 12


def draw_panel(
    image: np.ndarray,
    sample: MultiTaskDataSample,
    tasks: Mapping[str, Task],
    meta: Mapping,
    opacity: float = 1.0,
    title: str | None = None,
) -> np.ndarray:
    """Draw the image, then for every task the prediction above and the label below.

    Args:
        image: (H, W, 3) RGB, uint8.
        sample: with labels, predictions or both; rows without any are left out.
        tasks: the tasks to show.
        meta: the data set's metainfo, by task.
        opacity: of what is drawn over the image, 0..1; 1 hides the image.
        title: of the image; its id by default.

    Returns:
        RGB image, uint8.
    """
    shown = {
        "prediction": {name: _values(sample.prediction(name)) for name in tasks},
        "label": {name: _values(sample.label(name)) for name in tasks},
    }
    # a row that has nothing to show for any task is left out
    shown = {k: v for k, v in shown.items() if any(x is not None for x in v.values())}
    legends = {
        name: _legend_entries(task, [row[name] for row in shown.values()], meta.get(name, {}))
        for name, task in tasks.items()
    }
    lines = max((math.ceil(len(entries) / 2) for entries in legends.values()), default=0)
    layout = _Layout(image.shape[0] / image.shape[1], max(1, len(shown)), len(tasks), lines)
    axis = layout.add_image(str(sample.get("sample_id", "image") if title is None else title))
    axis.imshow(image)
    for column, (name, task) in enumerate(tasks.items()):
        for row, (title, values) in enumerate(shown.items()):
            axis = layout.add_tile(row, column, f"{name}: {title}")
            if values[name] is None:
                _draw_absence(axis, f"no {title}", image.shape[:2])
            else:
                drawn = task.draw(values[name], meta.get(name, {}))
                drawn = _widen_lines(drawn) if task.has_lines else drawn
                axis.imshow(blend(image, drawn, opacity), interpolation="nearest")
        _add_legend(axis, legends[name])
    return draw_figure(layout.figure)


class _Layout:
    """Places the image, as high as all rows together, and one column of tiles a task.

    Lengths are in inches. Positions are computed here: matplotlib's own layout engines take as
    long as the drawing.
    """

    def __init__(self, aspect: float, rows: int, tasks: int, legend_lines: int) -> None:
        self.tile = (_COLUMN_INCHES, _COLUMN_INCHES * aspect)
        self.rows = rows
        self.size = (
            (self.tile[0] + _GAP_INCHES) * (rows + tasks) + _GAP_INCHES,
            (self.tile[1] + _TITLE_INCHES) * rows + _LEGEND_INCHES * legend_lines + 2 * _GAP_INCHES,
        )
        self.figure = Figure(figsize=self.size, dpi=_DPI)

    def add_image(self, title: str) -> Axes:
        """Add the axis of the image."""
        width, height = self.tile[0] * self.rows, self.tile[1] * self.rows
        return self._add(_GAP_INCHES, _TITLE_INCHES, width, height, title)

    def add_tile(self, row: int, column: int, title: str) -> Axes:
        """Add the axis of a task's tile."""
        x = (self.tile[0] + _GAP_INCHES) * (self.rows + column) + _GAP_INCHES
        y = (self.tile[1] + _TITLE_INCHES) * row + _TITLE_INCHES
        return self._add(x, y, *self.tile, title)

    def _add(self, x: float, y: float, width: float, height: float, title: str) -> Axes:
        """Add an axis whose upper left corner is at (x, y)."""
        bottom = self.size[1] - y - height
        axis = self.figure.add_axes(
            (
                x / self.size[0],
                bottom / self.size[1],
                width / self.size[0],
                height / self.size[1],
            )
        )
        axis.axis("off")
        axis.set_title(title, fontsize=9, pad=4)
        return axis


def _values(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.cpu().numpy()


def _widen_lines(drawn: np.ndarray) -> np.ndarray:
    """Make lines so wide that none falls between the pixels of a smaller tile."""
    step = math.ceil(drawn.shape[1] / (_COLUMN_INCHES * _DPI))
    return cv2.dilate(drawn, np.ones((step, step), np.uint8))


def _draw_absence(axis: Axes, text: str, size: tuple[int, int]) -> None:
    axis.imshow(np.full((*size, 3), 245, np.uint8))
    axis.text(0.5, 0.5, text, ha="center", va="center", color="gray", transform=axis.transAxes)


def _legend_entries(
    task: Task, shown: list[np.ndarray | None], meta: Mapping
) -> list[tuple[str, tuple[int, int, int]]]:
    entries: dict[str, tuple[int, int, int]] = {}
    for values in shown:
        if values is not None:
            entries.update(task.legend(values, meta))
    if len(entries) <= _MAX_LEGEND:
        return list(entries.items())
    rest = len(entries) - _MAX_LEGEND + 1
    return [*list(entries.items())[: _MAX_LEGEND - 1], (f"... {rest} more", (255, 255, 255))]


def _add_legend(axis: Axes, entries: list[tuple[str, tuple[int, int, int]]]) -> None:
    if entries:
        axis.legend(
            handles=[
                Patch(facecolor=np.array(color) / 255, edgecolor="gray", linewidth=0.5, label=name)
                for name, color in entries
            ],
            loc="upper center",
            bbox_to_anchor=(0.5, -0.01),
            ncols=2,
            fontsize=8,
            frameon=False,
        )
