"""Gradient conflict: whether tasks pull their shared parameters the same way.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Eqs. 7-8, Fig. 4. Letters: T tasks,
g_i the gradient of task i's loss by the shared parameters, phi_ij the angle between g_i and g_j.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn

from vmt_mm.analysis.tables import table_of
from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.visualization.figure import draw_figure

#: Name of a record's file.
RECORD_FILE = "gradient_conflict.json"
_ALL = "all pairs"
#: Okabe and Ito's colours, which colour-blind people can tell apart.
_COLORS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def find_candidates(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Parameter]:
    """Trainable parameters of the encoder, which tasks may share, whose names match a pattern."""
    tasks = list(getattr(model, "tasks", ()))
    if len(tasks) < 2:
        raise InputError(f"gradient conflict needs a model of two tasks at least, got {tasks}")
    trainable = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    if not trainable:
        raise InputError(
            "gradient conflict: no parameter of the encoder is trainable, so tasks share none; "
            "choose another `peft`"
        )
    chosen = {name: p for name, p in trainable.items() if re.search(pattern or "", name)}
    if not chosen:
        raise InputError(
            f"gradient conflict: `parameters` {pattern!r} is found in no name of the encoder's "
            f"{len(trainable)} trainable parameters; the first is {next(iter(trainable))!r}"
        )
    return chosen


def task_losses(
    model: nn.Module, inputs: Tensor, data_samples: list[MultiTaskDataSample]
) -> dict[str, Tensor]:
    """Task -> loss of a batch (B, 3, H, W), which depends on no other task's parameters."""
    encoder = model.backbone
    joined, encoder.batch_tasks = encoder.batch_tasks, False
    try:
        losses = model.loss(inputs, data_samples)
    finally:
        encoder.batch_tasks = joined
    return {task: losses[f"loss_{task}"] for task in model.tasks}


def measure_conflict(
    losses: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> tuple[Tensor, list[str]]:
    """Compute cos phi_ij = g_i . g_j / (|g_i| |g_j|) of every two tasks (Eqs. 7, 8).

    Shared are the parameters that every loss depends on: not VMT-Adapter's alpha_t and gamma_t.

    Args:
        losses: task -> scalar, all of one graph.
        parameters: name -> parameter that may be shared.

    Returns:
        Cosines (T (T - 1) / 2,) float64, in the order of ``itertools.combinations``, NaN where a
        gradient is zero or not finite; names of the shared parameters.
    """
    gradients = [
        torch.autograd.grad(loss, list(parameters.values()), retain_graph=True, allow_unused=True)
        for loss in losses.values()
    ]
    by_name = dict(zip(parameters, zip(*gradients, strict=True), strict=True))
    shared = [n for n, parts in by_name.items() if all(part is not None for part in parts)]
    if not shared:
        raise InputError(
            f"gradient conflict: none of {len(parameters)} trainable parameter(s) of the encoder "
            f"is shared by the tasks {', '.join(losses)}: each has parameters of its own"
        )
    # in float64: the squares of a small float32 gradient vanish
    rows = (torch.stack([g.flatten() for g in by_name[name]]).double() for name in shared)
    gram = sum(row @ row.T for row in rows)
    length = gram.diagonal().sqrt()
    length = length.where(length.isfinite() & (length > 0), math.nan)
    cosines = (gram / length / length[:, None]).clamp(-1, 1)
    i, j = torch.triu_indices(len(losses), len(losses), offset=1, device=gram.device)
    return cosines[i, j], shared


@dataclass
class ConflictRecord:
    """Cosines of a training: pair of tasks -> one per iteration and process, None where undefined.

    Iterations count from 1, one entry for each process.
    """

    tasks: Sequence[str]
    iterations: list[int] = field(default_factory=list)
    cosines: dict[str, list[float | None]] = field(default_factory=dict)
    shared_parameters: list[str] = field(default_factory=list)

    def add(self, iteration: int, rows: Iterable[Sequence[float]]) -> None:
        """Add an iteration's rows of cosines, one of each process, rounded to nine digits."""
        for row in rows:
            self.iterations.append(iteration)
            for pair, value in zip(combinations(self.tasks, 2), row, strict=True):
                rounded = None if math.isnan(value) else round(value, 9)
                self.cosines.setdefault(" - ".join(pair), []).append(rounded)

    def summary(self) -> dict[str, dict[str, Any]]:
        """'all pairs' and every pair -> mean cosine, shares above and below 0, counts."""
        found = {}
        for name, values in {_ALL: sum(self.cosines.values(), []), **self.cosines}.items():
            known = _known(values)
            numbers = (known.mean(), (known > 0).mean(), (known < 0).mean()) if known.size else ()
            mean, positive, negative = map(float, numbers) if known.size else (None,) * 3
            found[name] = dict(mean=mean, share_positive=positive, share_negative=negative,
                               count=known.size, without=len(values) - known.size)  # fmt: skip
        return found

    def to_json(self) -> dict[str, Any]:
        """Content of the record's file."""
        return dict(vars(self), tasks=list(self.tasks), summary=self.summary())


def read_record(path: Path, until: float = math.inf) -> ConflictRecord:
    """Read a record's file, up to an iteration (included)."""
    try:
        content = json.loads(path.read_text())
        count = sum(iteration <= until for iteration in content["iterations"])
        cosines = {pair: values[:count] for pair, values in content["cosines"].items()}
        shared = content["shared_parameters"]
        return ConflictRecord(content["tasks"], content["iterations"][:count], cosines, shared)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not a record of gradient conflict as GradientConflictHook writes it"
        ) from error


def conflict_table(records: Mapping[str, ConflictRecord]) -> Table:
    """Table of every pair's mean cosine and share above 0, for each name."""
    summaries = {f"{n}\nmean, share above 0": record.summary() for n, record in records.items()}
    rows = []
    for pair in dict.fromkeys(pair for summary in summaries.values() for pair in summary):
        row = {"tasks": pair}
        for name, summary in summaries.items():
            known = pair in summary and summary[pair]["count"]
            text = "{mean:+.3f}, {share_positive:6.1%}" if known else "no value"
            row[name] = text.format(**summary.get(pair, {}))
        rows.append(row)
    return table_of("cosine between the tasks' gradients by the shared parameters", rows)


def draw_conflicts(records: Mapping[str, ConflictRecord]) -> np.ndarray:
    """Draw how cos phi_ij is distributed: all pairs together, then every pair.

    Each record has a colour; dashed lines are means, the shaded side is that of conflict.

    Returns:
        RGB image (H, W, 3), uint8.
    """
    parts = {n: {_ALL: sum(r.cosines.values(), []), **r.cosines} for n, r in records.items()}
    pairs = list(dict.fromkeys(pair for part in parts.values() for pair in part))
    largest = max(np.abs(_known(part[_ALL])).max(initial=0.0) for part in parts.values())
    edges = np.linspace(-1, 1, 41) * min(1.0, largest + 0.05)
    rows = math.ceil(len(pairs) / 3)
    figure = Figure(figsize=(10.5, 1 + 2.4 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False, sharex=True).ravel()
    for axis, pair in zip(axes, pairs, strict=False):
        axis.axvspan(edges[0], 0, color="#f4e3e3", zorder=0)
        for (name, part), color in zip(parts.items(), _COLORS * len(parts), strict=False):
            known = _known(part.get(pair, []))
            share = f"{(known > 0).mean():.1%} > 0" if known.size else "no value"
            counts = np.histogram(known, edges)[0] / max(1, known.size)
            axis.stairs(counts, edges, fill=True, facecolor=(color, 0.3), edgecolor=color,
                        linewidth=1.5, label=f"{name}: {share}")  # fmt: skip
            axis.axvline(known.mean() if known.size else 0, color=color, linestyle="--")
        axis.set_title(pair, fontsize=10)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(pairs) :]:
        axis.axis("off")
    figure.supxlabel(r"$\cos\,\phi_{ij}$ of the gradients by the shared parameters")
    figure.supylabel("share of the values")
    return draw_figure(figure)


def _known(values: Sequence[float | None]) -> np.ndarray:
    return np.array([value for value in values if value is not None], float)
