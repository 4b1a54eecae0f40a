"""One picture that shows an image and what the model makes of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task

_COLUMN_INCHES = 2.6
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
    labels = {name: _values(sample.label(name)) for name in tasks}
    predictions = {name: _values(sample.prediction(name)) for name in tasks}
    sources = dict(prediction=predictions, label=labels)
    rows = [(title, d) for title, d in sources.items() if any(v is not None for v in d.values())]
    tile = _COLUMN_INCHES * image.shape[0] / image.shape[1]
    figure = Figure(
        figsize=(_COLUMN_INCHES * (len(tasks) + 1), (tile + 0.3) * max(1, len(rows)) + 1.1),
        dpi=100,
        layout="constrained",
    )
    axes = figure.subplots(max(1, len(rows)), len(tasks) + 1, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(str(sample.get("sample_id", "image")), fontsize=9)
    for column, (name, task) in enumerate(tasks.items(), start=1):
        for row, (title, values) in enumerate(rows):
            _draw_tile(axes[row, column], task, values[name], f"{name}: {title}", meta)
        shown = [v for v in (labels[name], predictions[name]) if v is not None]
        _add_legend(axes[-1, column], task, shown, meta)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _values(tensor: object) -> np.ndarray | None:
    return None if tensor is None else tensor.cpu().numpy()


def _draw_tile(
    axis: Axes, task: Task, values: np.ndarray | None, title: str, meta: Mapping
) -> None:
    if values is None:
        axis.text(0.5, 0.5, "no label", ha="center", va="center", fontsize=9, color="gray")
    else:
        axis.imshow(task.draw(values, meta.get(task.name, {})), interpolation="nearest")
    axis.set_title(title, fontsize=9)


def _add_legend(axis: Axes, task: Task, shown: list[np.ndarray], meta: Mapping) -> None:
    entries: dict[str, tuple[int, int, int]] = {}
    for values in shown:
        entries.update(task.legend(values, meta.get(task.name, {})))
    handles = [
        Patch(facecolor=np.array(color) / 255, edgecolor="gray", linewidth=0.5, label=name)
        for name, color in list(entries.items())[:_MAX_LEGEND]
    ]
    if handles:
        axis.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.02),
            ncols=2,
            fontsize=7,
            frameon=False,
        )
