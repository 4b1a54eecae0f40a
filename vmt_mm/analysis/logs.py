"""Read the numbers that trainings log: losses, learning rate, times, metrics."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.registry import METRICS
from vmt_mm.visualization.figure import draw_figure

#: What a line says of when it was written.
_WHEN = ("step", "epoch", "iter")
#: An iteration that takes longer than so many medians is an outlier: the first of an epoch.
_OUTLIER = 3.0


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a log, one record a line.

    Args:
        path: a file of ``vis_data``, or a work dir: then its runs' ``vis_data/scalars.json`` in the
            order of time; what a resumed training did again replaces what was logged before.

    Raises:
        InputError: if there is no log, or a line of it is no JSON.
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
    """Steps and values of one number: iterations of training, epochs (or iterations) of metrics.

    Raises:
        InputError: if nothing of that name was logged; the message lists what was.
    """
    points = [(r["step"], r[key]) for r in records if isinstance(r.get(key), (int, float))]
    if not points:
        known = keys_of(records)
        near = get_close_matches(key, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        short = [name for name in known if not is_of_class(name)]
        raise InputError(f"no {key!r} in the log; it has {', '.join(short)}{hint}")
    steps, values = zip(*sorted(points), strict=True)
    return list(steps), list(values)


def keys_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every number that was logged."""
    return sorted({key for record in records for key in record if key not in _WHEN})


def main_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The losses, and of every task the number by which it is judged."""
    known = filter(None, (getattr(kind, "directions", None) for kind in _metrics()))
    main = tuple(f"/{next(iter(names))}" for names in known if names)
    return [key for key in keys_of(records) if key.startswith("loss") or key.endswith(main)]


def _metrics() -> list[Any]:
    METRICS.import_from_location()
    return list(METRICS.module_dict.values())


def draw_curves(
    curves: Sequence[tuple[str, str, Sequence[float], Sequence[float]]], title: str | None = None
) -> np.ndarray:
    """Draw curves: losses above, metrics below, each against its own steps.

    Args:
        curves: legend, key, steps, values.
        title: of the picture.

    Returns:
        RGB image, uint8.
    """
    groups: dict[str, list] = defaultdict(list)
    for entry in curves:
        # losses, learning rate and times go by iteration, metrics by validation
        groups["validation" if "/" in entry[1] or entry[1] == "delta" else "iteration"].append(
            entry
        )
    figure = Figure(figsize=(9, 4.5 * len(groups)), dpi=100, layout="constrained")
    if title:
        figure.suptitle(title)
    for row, (axis_name, entries) in enumerate(sorted(groups.items()), start=1):
        axis = figure.add_subplot(len(groups), 1, row)
        for legend, _, steps, values in entries:
            axis.plot(
                steps, values, marker="o" if len(steps) < 30 else "", markersize=3, label=legend
            )
        axis.set_xlabel("epoch" if axis_name == "validation" else "iteration")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return draw_figure(figure)


def train_times(
    records: Sequence[Mapping[str, Any]], include_outliers: bool = False
) -> dict[str, float]:
    """How long iterations took.

    Args:
        records: of a log; each time is a mean over the iterations since the last line.
        include_outliers: keep lines that took more than three times the median.

    Returns:
        ``slowest`` and ``fastest`` epoch and their ``slowest_s`` and ``fastest_s`` an iteration,
        ``std_s`` over epochs, ``mean_s`` an iteration.

    Raises:
        InputError: if no line of the training gives a time.
    """
    timed = [(r["epoch"], r["time"]) for r in records if "epoch" in r and "time" in r]
    if not timed:
        raise InputError("the log gives no time of training iterations")
    limit = np.inf if include_outliers else _OUTLIER * np.median([t for _, t in timed])
    by_epoch: dict[int, list[float]] = defaultdict(list)
    for epoch, seconds in timed:
        if seconds <= limit:
            by_epoch[epoch].append(seconds)
    means = {epoch: float(np.mean(times)) for epoch, times in by_epoch.items()}
    slowest, fastest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return dict(
        slowest=slowest,
        slowest_s=means[slowest],
        fastest=fastest,
        fastest_s=means[fastest],
        std_s=float(np.std(list(means.values()))),
        mean_s=float(np.mean([t for times in by_epoch.values() for t in times])),
    )
