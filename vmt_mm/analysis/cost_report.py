"""Costs as a table and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from vmt_mm.analysis.cost import Cost
from vmt_mm.visualization.figure import draw_figure

#: Passes -> line, and what the legend says.
_LINES = {"shared": ("-", "one pass"), "per_task": ("--", "a pass per task")}
_MARKERS = "osD^vP*X"


def cost_table(costs: Sequence[Cost]) -> Table:
    """Table of costs, one row a config and number of tasks."""
    table = Table(title=_title(costs))
    table.add_column("config", overflow="fold")
    table.add_column("encoder passes")
    if several_sizes := len({_images(cost) for cost in costs}) > 1:
        table.add_column("images")
    for column in ("tasks", "median, ms", "min, ms", "ratio to 1 task"):
        table.add_column(column, justify="right")
    for index, cost in enumerate(costs):
        case = cost.case
        last = index + 1 == len(costs) or costs[index + 1].case.config != case.config
        table.add_row(
            Path(case.config).stem,
            case.passes,
            *([_images(cost)] if several_sizes else []),
            str(case.tasks),
            f"{1e3 * cost.median_s:.1f}",
            f"{1e3 * cost.min_s:.1f}",
            "-" if cost.ratio is None else f"{cost.ratio:.2f}",
            end_section=last,
        )
    return table


def draw_costs(costs: Sequence[Cost]) -> np.ndarray:
    """Draw time, and the ratio to one task, against the number of tasks; one line a config.

    Returns:
        RGB image (H, W, 3), uint8.
    """
    configs = list(dict.fromkeys(cost.case.config for cost in costs))
    figure = Figure(
        figsize=(11, 4.8 + 0.22 * ((len(configs) + 1) // 2)), dpi=110, layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    tasks = sorted({cost.case.tasks for cost in costs})
    right.plot(tasks, tasks, color="0.75", linewidth=6, zorder=0, label="T times as much")
    for index, config in enumerate(configs):
        own = sorted((c for c in costs if c.case.config == config), key=lambda c: c.case.tasks)
        _draw_line(left, [(c.case.tasks, c.median_s) for c in own], own[0], index)
        ratios = [(c.case.tasks, c.ratio) for c in own if c.ratio is not None]
        _draw_line(right, ratios, own[0], index)
    left.set_ylabel("median time, s")
    right.set_ylabel("ratio to the time with one task")
    right.set_ylim(0, 1.05 * max(tasks[-1], right.get_ylim()[1] / 1.05))
    for axis in (left, right):
        axis.set_xlabel("number of tasks T")
        axis.set_xticks(tasks)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(costs))
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return draw_figure(figure)


def _draw_line(axis: Axes, points: Sequence[tuple[int, float]], cost: Cost, index: int) -> None:
    line, passes = _LINES[cost.case.passes]
    axis.plot(
        *np.array(points, dtype=float).reshape(-1, 2).T,
        color=colormaps["tab10"](index % 10),
        marker=_MARKERS[index // 10 % len(_MARKERS)],
        linestyle=line,
        label=f"{Path(cost.case.config).stem} ({passes})",
    )


def _title(costs: Sequence[Cost]) -> str:
    record = costs[0].record()
    images = sorted({_images(cost) for cost in costs})
    threads = f", {record['threads']} thread(s)" if record["device"] == "cpu" else ""
    return f"{record['mode']}: {' and '.join(images)}, {record['device']}{threads}"


def _images(cost: Cost) -> str:
    height, width = cost.case.size
    return f"{cost.case.batch} image(s) of {height} x {width}"
