"""Pictures of a data set as it lies on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task
from vmt_mm.visualization.figure import draw_figure
from vmt_mm.visualization.panel import draw_panel

#: Classes up to this many bear their names; more would not be legible.
_MAX_NAMES = 60


def draw_contact_sheet(
    images: Sequence[tuple[np.ndarray, MultiTaskDataSample]],
    tasks: Mapping[str, Task],
    meta: Mapping,
) -> np.ndarray:
    """Draw images below each other, each with all its labels beside it.

    Args:
        images: RGB images (H, W, 3) uint8 and their labels; one at least.
        tasks: the tasks to show.
        meta: the data set's metainfo, by task.

    Returns:
        RGB image, uint8.
    """
    rows = [draw_panel(image, sample, tasks, meta) for image, sample in images]
    width = max(row.shape[1] for row in rows)
    return np.concatenate(
        [
            np.pad(row, [(0, 0), (0, width - row.shape[1]), (0, 0)], constant_values=255)
            for row in rows
        ]
    )


def draw_histogram(
    shares: Mapping[str, Mapping[str, Mapping[int, float]]], names: Mapping[str, Mapping[int, str]]
) -> np.ndarray:
    """Draw how often each value occurs: one chart a task, one bar a split.

    Args:
        shares: task -> split -> value -> share of the labelled pixels.
        names: task -> value -> name.

    Returns:
        RGB image, uint8.
    """
    figure = Figure(figsize=(12, 3.4 * len(shares)), dpi=100, layout="constrained")
    for row, (task, splits) in enumerate(shares.items(), start=1):
        axis = figure.add_subplot(len(shares), 1, row)
        known = names.get(task, {})
        values = sorted({v for of_split in splits.values() for v in of_split} | set(known))
        positions = np.arange(len(values))
        width = 0.8 / max(len(splits), 1)
        for index, (split, of_split) in enumerate(splits.items()):
            heights = [100 * of_split.get(value, 0) for value in values]
            axis.bar(positions + index * width, heights, width, label=split)
        axis.set_yscale("log")
        rarest = min((s for of_split in splits.values() for s in of_split.values()), default=1)
        axis.set_ylim(min(50 * rarest, 0.5), 100)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.set_ylabel("% of labelled pixels")
        axis.set_title(task)
        if len(values) <= _MAX_NAMES:
            labels = [known.get(value, str(value)) for value in values]
            axis.set_xticks(positions + width * (len(splits) - 1) / 2, labels, rotation=60)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor", fontsize=8)
        axis.legend()
    return draw_figure(figure)
