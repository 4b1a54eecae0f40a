"""A picture of gradient conflict, as Fig. 4 of VMT-Adapter (https://arxiv.org/abs/2312.08733)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vmt_mm.analysis.gradient_conflict import ConflictRecord
from vmt_mm.visualization.figure import draw_figure

#: Of Okabe and Ito, to be told apart by everyone.
_COLORS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_BINS = 40
_COLUMNS = 3
_ROW_INCHES = 2.1
_WIDTH_INCHES = 10.5
#: Colour of the side on which tasks conflict.
_CONFLICT = "#f4e3e3"


def draw_conflicts(records: Mapping[str, ConflictRecord]) -> np.ndarray:
    """Draw how cos phi_ij is distributed over all iterations.

    Above: all pairs together, and the shares below and above 0; under it one panel for every pair
    of tasks. Each record has a colour, the same in every panel.

    Args:
        records: name -> cosines of a training.

    Returns:
        RGB image (H, W, 3), uint8.
    """
    parts = {name: dict(record.parts()) for name, record in records.items()}
    labels = _labels(records)
    pairs = list(dict.fromkeys(p for part in parts.values() for p in part if p != "all pairs"))
    rows = math.ceil(len(pairs) / _COLUMNS)
    figure = Figure(
        figsize=(_WIDTH_INCHES, 3.6 + 0.25 * len(records) + _ROW_INCHES * rows),
        dpi=110,
        layout="constrained",
    )
    above, below = figure.subfigures(
        2, 1, height_ratios=(3.6 + 0.25 * len(records), max(1e-3, _ROW_INCHES * rows))
    )
    edges = _edges(parts)
    left, right = above.subplots(1, 2, width_ratios=(1.7, 1))
    _draw_distribution(left, {n: p["all pairs"] for n, p in parts.items()}, edges)
    left.set_title("all pairs of tasks, all iterations")
    left.set_xlabel(r"$\cos\,\phi_{ij}$ of the gradients by the shared parameters")
    left.set_ylabel("share of the values")
    _draw_shares(right, {n: p["all pairs"] for n, p in parts.items()})
    handles = left.get_legend_handles_labels()[0]
    above.legend(handles, list(labels.values()), loc="outside upper center", ncols=1, frameon=False)
    axes = below.subplots(rows, _COLUMNS, squeeze=False, sharex=True).ravel()
    for axis, pair in zip(axes, pairs, strict=False):
        values = {n: p[pair] for n, p in parts.items() if pair in p}
        _draw_distribution(axis, values, edges)
        axis.set_title(pair, fontsize=10)
        _note_shares(axis, values, list(records))
    for axis in axes[len(pairs) :]:
        axis.axis("off")
    return draw_figure(figure)


def _labels(records: Mapping[str, ConflictRecord]) -> dict[str, str]:
    """What the legend says of every record."""
    return {
        name: f"{name}: {len(set(record.iterations)):,} iterations (dashed: mean)"
        for name, record in records.items()
    }


def _edges(parts: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Edges of the bins, one of them at 0; they reach as far as the values do."""
    largest = [np.abs(p["all pairs"]).max() for p in parts.values() if p["all pairs"].size]
    limit = min(1.0, max(0.1, math.ceil(10 * max(largest, default=1.0)) / 10))
    return np.linspace(-limit, limit, _BINS + 1)


def _draw_distribution(axis: Axes, values: Mapping[str, np.ndarray], edges: np.ndarray) -> None:
    """One histogram a record, as a share of its values, and its mean as a dashed line."""
    axis.axvspan(edges[0], 0, color=_CONFLICT, zorder=0)
    axis.axvline(0, color="black", linewidth=0.8)
    for index, (name, part) in enumerate(values.items()):
        color = _COLORS[index % len(_COLORS)]
        counts = np.histogram(part, edges)[0]
        axis.stairs(
            counts / max(1, part.size),
            edges,
            fill=True,
            facecolor=(color, 0.3),
            edgecolor=color,
            linewidth=1.5,
            label=name,
        )
        if part.size:
            axis.axvline(part.mean(), color=color, linestyle="--", linewidth=1.2)
    axis.set_xlim(edges[0], edges[-1])
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_shares(axis: Axes, values: Mapping[str, np.ndarray]) -> None:
    """Shares of cos < 0 to the left of 0 and of cos > 0 to the right, one bar a record."""
    axis.axvspan(-1.4, 0, color=_CONFLICT, zorder=0)
    for index, part in enumerate(values.values()):
        for sign in (-1, 1):
            share = float((sign * part > 0).mean()) if part.size else 0.0
            axis.barh(index, sign * share, height=0.5, color=_COLORS[index % len(_COLORS)])
            axis.text(
                sign * (share + 0.03),
                index,
                f"{100 * share:.1f} %",
                ha="left" if sign > 0 else "right",
                va="center",
                fontsize=10,
            )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlim=(-1.4, 1.4), ylim=(len(values) - 0.5, -0.5), yticks=[], xticks=[-0.7, 0.7])
    axis.set_xticklabels([r"conflict: $\cos\,\phi_{ij} < 0$", r"synergy: $\cos\,\phi_{ij} > 0$"])
    axis.tick_params(length=0)
    axis.set_title("shares of the values")
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _note_shares(axis: Axes, values: Mapping[str, np.ndarray], names: list[str]) -> None:
    """Write every record's share above 0 over the bars, in its colour."""
    axis.set_ylim(top=axis.get_ylim()[1] * (1.1 + 0.14 * len(values)))
    for line, (name, part) in enumerate(values.items()):
        text = f"{100 * (part > 0).mean():.1f} % > 0" if part.size else "no value"
        axis.text(
            0.98,
            0.96 - 0.14 * line,
            text,
            color=_COLORS[names.index(name) % len(_COLORS)],
            ha="right",
            va="top",
            fontsize=8,
            transform=axis.transAxes,
        )
