"""Costs as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vmt_mm.analysis.cost import Cost
from vmt_mm.analysis.cost_report import title_of
from vmt_mm.analysis.stock import OURS
from vmt_mm.visualization.figure import draw_figure

#: Passes -> line, and what the legend says.
_LINES = {"shared": ("-", "one pass"), "per_task": ("--", "a pass per task")}
_MARKERS = "osD^vP*X"


def draw(costs: Sequence[Cost]) -> np.ndarray:
    """Draw costs against the stock composition's where they are there, else against the tasks.

    Returns:
        RGB image (H, W, 3), uint8.
    """
    reference = any(cost.case.setting.variant != OURS for cost in costs)
    return draw_reference(costs) if reference else draw_costs(costs)


def draw_reference(costs: Sequence[Cost]) -> np.ndarray:
    """Draw images a second and peak memory of every variant, bars side by side.

    Returns:
        RGB image (H, W, 3), uint8.
    """
    groups = list(dict.fromkeys((c.case.config, c.case.setting.tasks) for c in costs))
    variants = list(dict.fromkeys(c.case.setting.variant for c in costs))
    width = 0.8 / len(variants)
    memory = all(cost.peak_mem_bytes is not None for cost in costs)
    figure = Figure(figsize=(11 if memory else 6, 4.6), dpi=110, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, 2 if memory else 1))
    values = [("images a second", lambda c: c.images_per_s), ("peak memory, MB",
              lambda c: c.peak_mem_bytes / 1e6)]  # fmt: skip
    for axis, (label, value) in zip(axes, values, strict=False):
        for index, variant in enumerate(variants):
            own = {(c.case.config, c.case.setting.tasks): value(c) for c in costs
                   if c.case.setting.variant == variant}  # fmt: skip
            places = np.arange(len(groups)) + (index - (len(variants) - 1) / 2) * width
            bars = axis.bar(places, [own[g] for g in groups], 0.93 * width, label=variant)
            axis.bar_label(bars, fmt=lambda x: f"{x:.0f}" if x >= 100 else f"{x:.3g}", fontsize=8)
        axis.set_ylabel(label)
        names = [f"{Path(config).stem}\nT = {tasks}" for config, tasks in groups]
        axis.set_xticks(range(len(groups)), names, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title_of(costs))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return draw_figure(figure)


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
    tasks = sorted({cost.case.setting.tasks for cost in costs})
    right.plot(tasks, tasks, color="0.75", linewidth=6, zorder=0, label="T times as much")
    for index, config in enumerate(configs):
        own = sorted(
            (c for c in costs if c.case.config == config), key=lambda c: c.case.setting.tasks
        )
        _draw_line(left, [(c.case.setting.tasks, c.median_s) for c in own], own[0], index)
        ratios = [(c.case.setting.tasks, c.ratio) for c in own if c.ratio is not None]
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
    figure.suptitle(title_of(costs))
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
        markersize=max(4, 11 - 3 * index),  # lines that coincide show one around the other
        label=f"{Path(cost.case.config).stem} ({passes})",
    )
