"""One picture that shows an image and what the model makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec, SubplotSpec
from matplotlib.patches import Patch

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task

_COLUMN_INCHES = 2.6
_TITLE_INCHES = 0.27
_LEGEND_INCHES = 0.2
_MAX_LEGEND = 12


def draw_panel(
    image: np.ndarray, sample: MultiTaskDataSample, tasks: Mapping[str, Task], meta: Mapping
) -> np.ndarray:
    """Draw the image, then for every task the prediction above and the label below.

    Args:
        image: (H, W, 3) RGB, uint8.
        sample: with labels, predictions or both; rows without any are left out.
        tasks: the tasks to show.
        meta: the data set's metainfo, by task.

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
    rows = max(1, len(shown))
    figure, grid = _make_figure(image.shape[0] / image.shape[1], rows, len(tasks), lines)
    axis = _add_axis(figure, grid[:, 0], str(sample.get("sample_id", "image")))
    axis.imshow(image)
    for column, (name, task) in enumerate(tasks.items(), start=1):
        for row, (title, values) in enumerate(shown.items()):
            axis = _add_axis(figure, grid[row, column], f"{name}: {title}")
            if values[name] is None:
                _draw_absence(axis, f"no {title}", image.shape[:2])
            else:
                drawn = task.draw(values[name], meta.get(name, {}))
                axis.imshow(drawn, interpolation="nearest")
        _add_legend(axis, legends[name])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _make_figure(aspect: float, rows: int, tasks: int, lines: int) -> tuple[Figure, GridSpec]:
    """Make a figure with room for the image, as high as all rows together, and the tasks."""
    width = _COLUMN_INCHES * (tasks + rows)
    height = (_COLUMN_INCHES * aspect + _TITLE_INCHES) * rows + _LEGEND_INCHES * lines + 0.1
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    return figure, figure.add_gridspec(rows, tasks + 1, width_ratios=[rows] + [1] * tasks)


def _add_axis(figure: Figure, place: SubplotSpec, title: str) -> Axes:
    axis = figure.add_subplot(place)
    axis.axis("off")
    axis.set_anchor("N")
    axis.set_title(title, fontsize=9)
    return axis


def _values(tensor: object) -> np.ndarray | None:
    return None if tensor is None else tensor.cpu().numpy()


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
