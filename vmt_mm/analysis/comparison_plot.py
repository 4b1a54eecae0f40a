"""A picture of a comparison, as Fig. 1 of VMT-Adapter (https://arxiv.org/abs/2312.08733)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

#: Colour (of Okabe and Ito, to be told apart by everyone) and marker: one pass, several passes.
_ONE_PASS, _SEVERAL = ("#0072B2", "o"), ("#D55E00", "s")
#: How far left of the smallest count the edge lies that stands for none, in decades.
_EDGE_DECADES = 0.7
#: From this ratio of the largest to the smallest count on, powers of ten are ticks enough.
_LONG = 300
#: Distances of a label from its point, in points; nearer ones first.
_REACHES = (7, 14, 22, 32, 44, 58)
#: Sides of a point that its label may be on; better ones first.
_DIRECTIONS = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
_FONT = 8


def draw_comparison(comparison: Mapping[str, Any]) -> np.ndarray | None:
    """Draw Delta against the encoder's trainable parameters, on a logarithmic axis.

    What trains nothing of the encoder stands at the left edge. Marker and colour say whether one
    pass through the encoder serves all tasks; bars are the spread over seeds.

    Args:
        comparison: see :func:`vmt_mm.analysis.comparison.compare`.

    Returns:
        RGB image (H, W, 3), uint8; None where no row has a Delta.
    """
    rows = [row for row in comparison["rows"] if row["delta"]["mean"] is not None]
    if not rows:
        return None
    figure = Figure(figsize=(9.5, 6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    places = _scale(axes, [row["encoder"] for row in rows])
    points = [
        (x, row["delta"]["mean"], row["delta"]["spread"] or 0.0)
        for x, row in zip(places, rows, strict=True)
    ]
    for (x, y, spread), row in zip(points, rows, strict=True):
        color, marker = _ONE_PASS if row["passes"] == 1 else _SEVERAL
        axes.errorbar(
            x, y, yerr=spread or None, color=color, marker=marker, markersize=7,
            capsize=3, elinewidth=1, alpha=0.9, markeredgecolor="white",
        )  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axes.margins(y=0.12)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("trainable parameters of the encoder")
    axes.set_ylabel(f"Δ over {comparison['reference']['title']} (%)")
    _draw_legend(figure, rows)
    canvas.draw()  # fixes the layout, which the labels are placed in
    _place_labels(axes, points, [row["title"] for row in rows])
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _scale(axes: Axes, counts: Sequence[int]) -> list[float]:
    """Scale the x axis; return each count's place on it, that of 0 at an edge of its own."""
    some = [count for count in counts if count] or [1_000_000]
    low, high = min(some), max(some)
    edge, gap = low / 10**_EDGE_DECADES, low / 10 ** (_EDGE_DECADES / 2)
    axes.set_xscale("log")
    axes.set_xlim(edge / 10 ** (_EDGE_DECADES / 2) if 0 in counts else gap, high * 2.5)
    exponents = range(int(np.log10(gap)), int(np.log10(high)) + 2)
    steps = (1,) if high / low > _LONG else (1, 2, 5)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    ticks = [tick for tick in ticks if gap < tick < axes.get_xlim()[1]]
    names = [f"{tick / 1e6:g} M" if tick >= 1e6 else f"{tick / 1e3:g} k" for tick in ticks]
    if 0 in counts:
        ticks, names = [edge, *ticks], ["0", *names]
        axes.axvspan(axes.get_xlim()[0], gap, color="0.96", zorder=-1)
        axes.axvline(gap, color="0.6", linewidth=1, linestyle=":")
    axes.set_xticks(ticks, names)
    axes.xaxis.set_minor_locator(NullLocator())
    return [count or edge for count in counts]


def _draw_legend(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    most = max(row["passes"] for row in rows)
    kinds = [(_ONE_PASS, "one pass through the encoder serves all tasks")]
    if most > 1:
        kinds.append((_SEVERAL, f"a pass for every task ({most})"))
    axes = figure.axes[0]
    handles = [
        axes.plot([], [], color=color, marker=marker, linestyle="", label=label)[0]
        for (color, marker), label in kinds
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)


def _place_labels(axes: Axes, points: Sequence[tuple[float, float]], titles: Sequence[str]) -> None:
    """Name every point (x, y, spread), where its label covers the least of what is there."""
    renderer = axes.figure.canvas.get_renderer()
    unit = axes.figure.dpi / 72  # pixels in a point
    pixels = axes.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 5 * unit, y - 5 * unit, 10 * unit, 10 * unit) for x, y in pixels]
    ends = [(x, y + sign * spread) for x, y, spread in points for sign in (-1, 1)]
    bars = axes.transData.transform(ends).reshape(-1, 2, 2)
    taken += [Bbox(bar).padded(4 * unit) for bar in bars]
    crowd = [sum(np.hypot(*(pixels - pixel).T) < 90 * unit) for pixel in pixels]
    for index in np.argsort(crowd, kind="stable")[::-1]:  # those with the least room first
        probe = axes.text(0, 0, titles[index], fontsize=_FONT)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        size = (extent.width, extent.height)
        places = [(reach * dx, reach * dy) for reach in _REACHES for dx, dy in _DIRECTIONS]
        boxes = [_box(pixels[index], place, size, unit) for place in places]
        costs = [_cost(box, taken, axes.bbox) + max(map(abs, place)) * unit**2
                 for box, place in zip(boxes, places, strict=True)]  # fmt: skip
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        _write_label(axes, points[index][:2], titles[index], places[best])


def _box(
    pixel: np.ndarray, place: tuple[float, float], size: tuple[float, float], unit: float
) -> Bbox:
    """Where a label lies: ``place`` points away from its point, on that side of it."""
    corner = [
        at + offset * unit - length * (0.5 - 0.5 * np.sign(offset))
        for at, offset, length in zip(pixel, place, size, strict=True)
    ]
    return Bbox.from_bounds(*corner, *size)


def _cost(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Square pixels of it that cover something, those outside the frame counting ten times."""
    inside = Bbox.intersection(box, frame)
    area = box.width * box.height
    cost = 10 * (area - (inside.width * inside.height if inside else 0))
    for other in taken:
        common = Bbox.intersection(box, other)
        cost += common.width * common.height if common else 0
    return cost


def _write_label(
    axes: Axes, point: tuple[float, float], title: str, place: tuple[float, float]
) -> None:
    far = max(map(abs, place)) > _REACHES[0]
    axes.annotate(
        title,
        point,
        xytext=place,
        textcoords="offset points",
        fontsize=_FONT,
        ha=("right", "center", "left")[int(np.sign(place[0])) + 1],
        va=("top", "center", "bottom")[int(np.sign(place[1])) + 1],
        path_effects=[withStroke(linewidth=2, foreground="white")],
        arrowprops=dict(arrowstyle="-", color="0.6", linewidth=0.6) if far else None,
    )
