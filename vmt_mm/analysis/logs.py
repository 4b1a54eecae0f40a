"""Read the logs of training runs: losses, learning rate, times, metrics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vmt_mm.config.components import nearest
from vmt_mm.errors import InputError
from vmt_mm.evaluation.task_metric import is_of_class
from vmt_mm.visualization.figure import draw_figure


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read a JSON log in ``vis_data``, or those of all runs in a work dir; later runs win."""
    files = [path] if path.is_file() else sorted(path.glob("20*/vis_data/scalars.json"))
    if not files:
        raise InputError(f"{path}: no log; expected a JSON file, or a work dir with one")
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in files:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                record = json.loads(line)
                key = (record["step"], "epoch" in record)
            except (ValueError, KeyError, TypeError):
                raise InputError(f"{file}, line {number}: not a record with a `step`") from None
            records[key] = record
    return list(records.values())


def curve(records: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a key; steps are iterations, or epochs for most metrics."""
    points = sorted((r["step"], r[key]) for r in records if isinstance(r.get(key), (int, float)))
    if not points:
        known = [name for name in keys_of(records) if not is_of_class(name)]
        raise InputError(f"no {key!r} in the log; it has {', '.join(known)}{nearest(key, known)}")
    return [step for step, _ in points], [value for _, value in points]


def keys_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return all logged keys except ``step``, ``epoch`` and ``iter``, sorted."""
    return sorted({key for record in records for key in record} - {"step", "epoch", "iter"})


def main_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of losses and of metrics, without per-class ones."""
    return [key for key in keys_of(records) if key.startswith("loss") or key.count("/") == 1]


def draw_curves(
    curves: Sequence[tuple[str, str, Sequence[float], Sequence[float]]], title: str | None = None
) -> np.ndarray:
    """Draw curves (legend, key, steps, values) as an RGB image, with metrics in a lower panel."""
    metrics = ["/" in key or key == "delta" for _, key, *_ in curves]
    rows = sorted(set(metrics))
    figure = Figure(figsize=(9, 4.5 * len(rows)), dpi=100, layout="constrained")
    figure.suptitle(title or "")
    axes = dict(zip(rows, figure.subplots(len(rows), squeeze=False)[:, 0], strict=True))
    for is_metric, (legend, _, steps, values) in zip(metrics, curves, strict=True):
        axis = axes[is_metric]
        axis.plot(steps, values, "o-" if len(steps) < 30 else "-", markersize=3, label=legend)
        axis.set_xlabel("epoch" if is_metric else "iteration")
        axis.legend(fontsize=8)
    return draw_figure(figure)


def train_times(
    records: Sequence[Mapping[str, Any]], include_outliers: bool = False, source: Any = "the log"
) -> dict[str, float]:
    """Summarize seconds per iteration, in total and by epoch.

    Times above three times the median are left out, unless ``include_outliers``.
    """
    timed = [(r["epoch"], r["time"]) for r in records if "epoch" in r and "time" in r]
    if not timed:
        raise InputError(f"{source}: no record has `epoch` and `time`; expected a training log")
    epochs, seconds = map(np.array, zip(*timed, strict=True))
    keep = include_outliers | (seconds <= 3 * np.median(seconds))
    epochs, seconds = epochs[keep], seconds[keep]
    means = {int(epoch): float(seconds[epochs == epoch].mean()) for epoch in np.unique(epochs)}
    slowest, fastest = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    return dict(
        slowest=slowest, slowest_s=means[slowest], fastest=fastest, fastest_s=means[fastest],
        std_s=float(np.std(list(means.values()))), mean_s=float(seconds.mean()),
        median_s=float(np.median(seconds)),
    )  # fmt: skip
