"""Read the numbers that trainings log: losses, learning rate, times, metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vmt_mm.config.components import nearest
from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.registry import METRICS
from vmt_mm.visualization.figure import draw_figure

#: An iteration that takes longer than so many medians is an outlier: the first of an epoch.
_OUTLIER = 3.0


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a JSON file of ``vis_data``, or all runs of a work dir, one record per line.

    What a resumed training repeats replaces what was logged before.
    """
    files = [path] if path.is_file() else sorted(path.glob("20*/vis_data/scalars.json"))
    if not files:
        raise InputError(f"{path}: no log; expected a JSON file, or a work dir that has one")
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                record = json.loads(line)
                key = (record["step"], "epoch" in record)
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}, line {number}: no record with a step") from None
            records.pop(key, None)
            records[key] = record
    return list(records.values())


def curve(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one number: iterations of training, epochs (or iterations) of metrics."""
    points = sorted((r["step"], r[key]) for r in records if isinstance(r.get(key), (int, float)))
    if not points:
        known = [name for name in keys_of(records) if not is_of_class(name)]
        hint = nearest(key, keys_of(records))
        raise InputError(f"no {key!r} in the log; it has {', '.join(known)}{hint}")
    return [step for step, _ in points], [value for _, value in points]


def keys_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every number that was logged."""
    return sorted({key for record in records for key in record} - {"step", "epoch", "iter"})


def main_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The losses, and the primary metric of every task."""
    METRICS.import_from_location()
    directions = (getattr(kind, "directions", None) for kind in METRICS.module_dict.values())
    main = tuple(f"/{next(iter(names))}" for names in directions if names)
    return [key for key in keys_of(records) if key.startswith("loss") or key.endswith(main)]


def draw_curves(
    curves: Sequence[tuple[str, str, Sequence[float], Sequence[float]]], title: str | None = None
) -> np.ndarray:
    """Draw curves (legend, key, steps, values) as an RGB image, metrics below the others."""
    rows: dict[str, list] = {"iteration": [], "epoch": []}
    for legend, key, *points in curves:
        rows["epoch" if "/" in key or key == "delta" else "iteration"].append((legend, points))
    rows = {name: entries for name, entries in rows.items() if entries}
    figure = Figure(figsize=(9, 4.5 * len(rows)), dpi=100, layout="constrained")
    figure.suptitle(title or "")
    axes = figure.subplots(len(rows), squeeze=False)[:, 0]
    for axis, (name, entries) in zip(axes, rows.items(), strict=True):
        for legend, points in entries:
            axis.plot(*points, "o-" if len(points[0]) < 30 else "-", markersize=3, label=legend)
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return draw_figure(figure)


def train_times(
    records: Sequence[Mapping[str, Any]], include_outliers: bool = False
) -> dict[str, float]:
    """Seconds per iteration in a log's lines, without those of more than three medians.

    Returns:
        ``slowest`` and ``fastest`` epoch, ``slowest_s``, ``fastest_s``, ``std_s`` over epochs,
        ``mean_s``.
    """
    timed = [(r["epoch"], r["time"]) for r in records if "epoch" in r and "time" in r]
    if not timed:
        raise InputError("the log gives no time of training iterations")
    epochs, seconds = map(np.array, zip(*timed, strict=True))
    keep = include_outliers | (seconds <= _OUTLIER * np.median(seconds))
    epochs, seconds = epochs[keep], seconds[keep]
    means = {int(epoch): float(seconds[epochs == epoch].mean()) for epoch in np.unique(epochs)}
    slowest, fastest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    spread = float(np.std(list(means.values())))
    return dict(slowest=slowest, slowest_s=means[slowest], fastest=fastest,
                fastest_s=means[fastest], std_s=spread, mean_s=float(seconds.mean()))  # fmt: skip
