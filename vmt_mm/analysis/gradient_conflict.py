"""Do tasks pull their shared parameters the same way? Gradient conflict.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Eqs. 7-8, Fig. 4. Letters: T tasks,
g_i the gradient of task i's loss by the shared parameters, phi_ij the angle between g_i and g_j.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.files import write_json

#: Name of a record's file.
RECORD_FILE = "gradient_conflict.json"


class Conflict(NamedTuple):
    """How the tasks' gradients of one batch lie to each other.

    Attributes:
        cosines: (T (T - 1) / 2,) float64, in the order of ``itertools.combinations``; NaN where a
            task has no gradient.
        shared: names of the shared parameters, by which the gradients were taken.
    """

    cosines: Tensor
    shared: list[str]


def compile_pattern(pattern: str | None) -> re.Pattern:
    """Compile the regular expression that chooses parameters; None chooses all.

    Raises:
        InputError: if it is not a regular expression.
    """
    try:
        return re.compile(pattern or "")
    except re.error as error:
        raise InputError(
            f"gradient conflict: `parameters` {pattern!r} is no regular expression ({error})"
        ) from error


def find_candidates(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Parameter]:
    """Parameters that tasks may share: what is trainable in the model's encoder.

    Args:
        model: a ``MultiTaskSegmentor``.
        pattern: regular expression; only names in which it is found.

    Raises:
        InputError: if there is none, or fewer than two tasks.
    """
    tasks = list(getattr(model, "tasks", ()))
    if len(tasks) < 2:
        raise InputError(f"gradient conflict needs a model of two tasks at least, got {tasks}")
    trainable = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    if not trainable:
        raise InputError(
            "gradient conflict: no parameter of the encoder is trainable, so tasks share none; "
            "choose another `peft`"
        )
    search = compile_pattern(pattern).search
    chosen = {name: p for name, p in trainable.items() if search(name)}
    if not chosen:
        raise InputError(
            f"gradient conflict: `parameters` {pattern!r} is found in no name of the encoder's "
            f"{len(trainable)} trainable parameters; the first is {next(iter(trainable))!r}"
        )
    return chosen


def task_losses(
    model: nn.Module, inputs: Tensor, data_samples: list[MultiTaskDataSample]
) -> dict[str, Tensor]:
    """Task -> loss of a batch (B, 3, H, W); hooks on the model do not see this forward pass.

    Each reaches only the parameters that it depends on.
    """
    encoder = model.backbone
    joined, encoder.batch_tasks = encoder.batch_tasks, False
    try:
        losses = model.loss(inputs, data_samples)
    finally:
        encoder.batch_tasks = joined
    return {task: losses[f"loss_{task}"] for task in model.tasks}


def measure_conflict(
    losses: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> Conflict:
    """Give cos phi_ij = g_i . g_j / (|g_i| |g_j|) of every two tasks (Eqs. 7, 8).

    Shared are the parameters that the loss of every task reaches; one that a loss does not reach
    belongs to other tasks, as VMT-Adapter's alpha_t and gamma_t. The losses' weights do not matter:
    they scale a gradient, and not its direction. A task whose gradient is zero (no label in the
    batch, or a weight of zero) or not finite has no cosine. No ``.grad`` is touched.

    Args:
        losses: task -> scalar, all of one graph, which is freed.
        parameters: name -> parameter that may be shared.

    Raises:
        InputError: if no parameter is shared.
    """
    last = list(losses)[-1]
    gradients = [
        torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=task != last, allow_unused=True
        )
        for task, loss in losses.items()
    ]
    # parameter -> its gradient from every task
    by_parameter = dict(zip(parameters, zip(*gradients, strict=True), strict=True))
    shared = [n for n, parts in by_parameter.items() if all(part is not None for part in parts)]
    if not shared:
        raise InputError(
            f"gradient conflict: none of {len(parameters)} trainable parameter(s) of the encoder "
            f"is shared by the tasks {', '.join(losses)}: each has parameters of its own"
        )
    # Products in float64: the squares of a small float32 gradient vanish.
    rows = (torch.stack([g.flatten() for g in by_parameter[n]]).double() for n in shared)
    gram = sum(row @ row.T for row in rows)
    length = gram.diagonal().sqrt()
    length = length.where(length.isfinite() & (length > 0), math.nan)
    cosines = (gram / length / length[:, None]).clamp(-1, 1)
    i, j = torch.triu_indices(len(losses), len(losses), offset=1, device=gram.device)
    return Conflict(cosines[i, j], shared)


@dataclass
class ConflictRecord:
    """Cosines of a training.

    Attributes:
        tasks: names, in the model's order.
        iterations: of every row, the number of the iteration, from 1.
        cosines: rows as in :class:`Conflict`; several processes give one row each.
        shared: names of the shared parameters.
    """

    tasks: tuple[str, ...]
    iterations: list[int] = field(default_factory=list)
    cosines: list[list[float]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[str]:
        """Names of the pairs, in the order of a row."""
        return [f"{first} - {second}" for first, second in combinations(self.tasks, 2)]

    def add(self, iteration: int, rows: Sequence[Sequence[float]]) -> None:
        """Add an iteration's rows, one a process, to the nine digits that a file keeps."""
        self.iterations.extend([iteration] * len(rows))
        self.cosines.extend([[round(value, 9) for value in row] for row in rows])

    def until(self, iteration: int) -> ConflictRecord:
        """The part up to an iteration, this included."""
        count = sum(number <= iteration for number in self.iterations)
        return ConflictRecord(
            self.tasks, self.iterations[:count], self.cosines[:count], self.shared
        )

    def values(self) -> np.ndarray:
        """(rows, pairs) float64, NaN where a pair has no cosine."""
        return np.array(self.cosines, float).reshape(-1, len(self.pairs))

    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, cosines) of all pairs together, then of every pair; those that are there."""
        values = self.values()
        for name, part in [("all pairs", values.ravel()), *zip(self.pairs, values.T, strict=True)]:
            yield name, part[~np.isnan(part)]

    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """'all pairs' and every pair -> mean cosine, shares above and below 0, counts."""
        rows = len(self.iterations)
        expected = {"all pairs": rows * len(self.pairs)}
        return {
            name: dict(
                mean=float(part.mean()) if part.size else None,
                share_positive=float((part > 0).mean()) if part.size else None,
                share_negative=float((part < 0).mean()) if part.size else None,
                count=int(part.size),
                without=int(expected.get(name, rows) - part.size),
            )
            for name, part in self.parts()
        }

    def to_json(self) -> dict[str, Any]:
        """Plain content of a file; None stands where a pair has no cosine."""
        columns = self.values().T
        return dict(
            tasks=list(self.tasks),
            shared_parameters=self.shared,
            summary=self.summary(),
            iterations=self.iterations,
            cosines={
                pair: [None if math.isnan(value) else value for value in column.tolist()]
                for pair, column in zip(self.pairs, columns, strict=True)
            },
        )

    def write(self, path: Path) -> None:
        """Write a JSON file atomically."""
        write_json(path, self.to_json())


def read_record(path: Path) -> ConflictRecord:
    """Read a file that :meth:`ConflictRecord.write` made.

    Raises:
        InputError: if it is missing or another file.
    """
    try:
        content = json.loads(path.read_text())
        record = ConflictRecord(tuple(content["tasks"]), shared=content["shared_parameters"])
        columns = [content["cosines"][pair] for pair in record.pairs]
        for iteration, *row in zip(content["iterations"], *columns, strict=True):
            record.add(iteration, [[math.nan if value is None else float(value) for value in row]])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a record of gradient conflict as GradientConflictHook writes it"
        ) from error
    return record


def conflict_table(records: Mapping[str, ConflictRecord]) -> Table:
    """Table of every pair's mean cosine and share above 0, for each name."""
    table = Table(title="cosine between the tasks' gradients by the shared parameters")
    table.add_column("tasks", no_wrap=True)
    for name in records:
        table.add_column(f"{name}\nmean, share above 0", justify="right", overflow="fold")
    summaries = [record.summary() for record in records.values()]
    for pair in dict.fromkeys(pair for summary in summaries for pair in summary):
        table.add_row(pair, *(_cell(summary.get(pair)) for summary in summaries))
    return table


def _cell(summary: Mapping[str, Any] | None) -> str:
    if not summary or not summary["count"]:
        return "no value"
    without = f" ({summary['without']:,} without)" if summary["without"] else ""
    return f"{summary['mean']:+.3f}, {100 * summary['share_positive']:5.1f} %{without}"
