"""Gradient conflict: angles between the tasks' gradients of shared parameters.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Eqs. 7-8, Fig. 4. Notation: T
tasks; g_i gradient of task i's loss by the shared parameters; phi_ij angle between g_i and g_j.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dist import all_gather, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.table import Table
from torch import Tensor, nn

from vmt_mm.analysis.tables import render_table, table_of
from vmt_mm.checkpoints.keys import some, task_of_keys
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.files import write_image, write_json
from vmt_mm.utils.modules import restored_generators, unwrap
from vmt_mm.visualization.figure import draw_figure
from vmt_mm.weighting import task_gradients

#: Content of a record's file: ``tasks``; names of ``shared_parameters``; ``cosines`` per pair of
#: tasks, None if undefined, one per process and iteration; ``iterations``, in the same order.
Record = dict[str, Any]
#: Name of files, and of the message hub entry, which checkpoints contain.
_KEY = "gradient_conflict"
RECORD_FILE = f"{_KEY}.json"
#: The colour-blind safe palette of Okabe and Ito.
_COLORS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def find_candidates(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Parameter]:
    """Return the trainable parameters of the backbone whose names match a regular expression."""
    if len(tasks := list(model.tasks)) < 2:
        raise InputError(f"gradient conflict: `model.tasks` needs at least two tasks, got {tasks}")
    trainable = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    chosen = {name: p for name, p in trainable.items() if re.search(pattern or "", name)}
    if not chosen:
        unfit = f"{pattern!r} matches none of the names {some(list(trainable))}"
        problem = unfit if trainable else "no parameter of the backbone is trainable"
        raise InputError(f"gradient conflict: {problem}")
    return chosen


def task_losses(
    model: nn.Module, inputs: Tensor, data_samples: list[MultiTaskDataSample]
) -> dict[str, Tensor]:
    """Return task -> loss of a batch (B, 3, H, W); independent of other tasks' parameters."""
    joined, model.backbone.batch_tasks = model.backbone.batch_tasks, False
    losses, _ = model.task_losses(inputs, data_samples, list(model.tasks))
    model.backbone.batch_tasks = joined
    return losses


def measure_conflict(
    losses: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> tuple[Tensor, list[str]]:
    """Compute cos phi_ij (T (T - 1) / 2,), float64, in the order of ``combinations`` (Eqs. 7, 8).

    NaN if a gradient is zero or not finite. Also returns the names of the shared parameters.
    """
    owner = task_of_keys(parameters, losses)
    owners = [owner.get(name) for name in parameters]
    gradients = task_gradients(losses, [*parameters.values()], owners)
    by_name = zip(parameters, *gradients, strict=True)
    shared = {name: own for name, *own in by_name if all(part is not None for part in own)}
    if not shared:
        which = f"none of {len(parameters)} trainable parameter(s) of the backbone"
        problem = f"{which} is shared by the tasks {', '.join(losses)}"
        raise InputError(f"gradient conflict: {problem}; it needs a method with shared parameters")
    # float64, since squares of small float32 gradients underflow
    rows = (torch.stack([g.flatten() for g in own]).double() for own in shared.values())
    gram = sum(row @ row.T for row in rows)
    length = gram.diagonal().sqrt()
    cosines = (gram / length / length[:, None]).clamp(-1, 1)
    i, j = torch.triu_indices(len(losses), len(losses), offset=1, device=gram.device)
    return cosines[i, j], list(shared)


def new_record(tasks: Iterable[str]) -> Record:
    """Create a record without cosines."""
    return dict(tasks=list(tasks), shared_parameters=[], iterations=[], cosines={})


def add_cosines(record: Record, iteration: int, rows: Iterable[Sequence[float]]) -> None:
    """Add an iteration's cosines, one row per process, rounded to nine digits."""
    for row in rows:
        record["iterations"].append(iteration)
        for pair, value in zip(combinations(record["tasks"], 2), row, strict=True):
            rounded = None if math.isnan(value) else round(value, 9)
            record["cosines"].setdefault(" - ".join(pair), []).append(rounded)


def summarize(record: Record) -> dict[str, dict[str, Any]]:
    """Map 'all pairs' and every pair to mean cosine, shares above and below 0, and counts."""
    found = {}
    for name, values in _parts(record).items():
        known = values[~np.isnan(values)]
        numbers = dict(mean=known, share_positive=known > 0, share_negative=known < 0)
        found[name] = {k: float(v.mean()) if v.size else None for k, v in numbers.items()}
        found[name] |= dict(count=known.size, without=values.size - known.size)
    return found


def _parts(record: Record) -> dict[str, np.ndarray]:
    """Map 'all pairs' and every pair to cosines, NaN if undefined."""
    pairs = {pair: np.array(values, float) for pair, values in record["cosines"].items()}
    return {"all pairs": np.concatenate([np.empty(0), *pairs.values()]), **pairs}


def write_record(path: Path, record: Record) -> None:
    """Write a record and its summary."""
    write_json(path, dict(record, summary=summarize(record)))


def read_record(path: Path) -> Record:
    """Read a record's file."""
    try:
        record = json.loads(path.read_text())
        record.pop("summary")
        _parts(record)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a record of gradient conflict") from error
    return record


def conflict_table(records: Mapping[str, Record]) -> Table:
    """Make a table of mean cosine and share above 0 per pair, for each named record."""
    rows: dict[str, dict[str, str]] = {}
    for name, record in records.items():
        for pair, summary in summarize(record).items():
            text = "{mean:+.3f}, {share_positive:6.1%}" if summary["count"] else "no value"
            cells = rows.setdefault(pair, {"tasks": pair})
            cells[f"{name}\nmean, share above 0"] = text.format(**summary)
    return table_of("cosine between the tasks' gradients", list(rows.values()))


def draw_conflicts(records: Mapping[str, Record]) -> np.ndarray:
    """Draw histograms of cos phi_ij, with dashed lines at the means, as an RGB image."""
    parts = {name: _parts(record) for name, record in records.items()}
    pairs = list(dict.fromkeys(pair for part in parts.values() for pair in part))
    largest = max(np.nanmax(np.abs(part["all pairs"]), initial=0.1) for part in parts.values())
    edges = np.linspace(-largest, largest, 41)
    rows = math.ceil(len(pairs) / 3)
    figure = Figure(figsize=(10.5, 1 + 2.4 * rows), dpi=110, layout="constrained")
    for number, pair in enumerate(pairs, start=1):
        axis = figure.add_subplot(rows, 3, number, title=pair)
        axis.axvspan(edges[0], 0, color="#f4e3e3", zorder=0)  # the side of conflict
        for (name, part), color in zip(parts.items(), _COLORS * len(parts), strict=False):
            values = part.get(pair, np.empty(0))
            if (known := values[~np.isnan(values)]).size:
                style = dict(fill=True, facecolor=(color, 0.3), edgecolor=color, linewidth=1.5)
                label = f"{name}: {(known > 0).mean():.1%} > 0"
                axis.stairs(np.histogram(known, edges)[0] / known.size, edges, label=label, **style)
                axis.axvline(known.mean(), color=color, linestyle="--")
                axis.legend(fontsize=7, frameon=False)
    figure.supxlabel(r"$\cos\,\phi_{ij}$ of the gradients by the shared parameters")
    figure.supylabel("share of the values")
    return draw_figure(figure)


@HOOKS.register_module()
class GradientConflictHook(Hook):
    r"""Measures the cosine between the gradients of every two tasks (Eq. 8 of VMT-Adapter).

    Every ``interval`` iterations, separate passes measure without changing the training run;
    ``parameters`` is a regular expression that selects by name. The work dir gets
    ``gradient_conflict.json`` after every epoch and a figure at the end.
    """

    def __init__(self, interval: int = 1, parameters: str | None = None) -> None:
        if type(interval) is not int or interval < 1:
            raise InputError(f"`interval` must be a positive integer, got {interval!r}")
        try:
            re.compile(parameters or "")
        except re.error as error:
            problem = f"invalid regular expression {parameters!r}: {error}"
            raise InputError(f"`parameters`: {problem}") from error
        self.interval, self.parameters, self.record = interval, parameters, new_record(())

    def before_train(self, runner: Runner) -> None:
        """Continue a resumed run's record; raise InputError if there is nothing to measure."""
        model, hub = unwrap(runner.model), runner.message_hub
        find_candidates(model, self.parameters)
        earlier = hub.get_info(_KEY, {}) if runner.iter else {}
        resumed = earlier.get("tasks") == list(model.tasks)
        self.record = earlier if resumed else new_record(model.tasks)
        hub.update_info(_KEY, self.record)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure on the next training batch."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        devices = {p.device for p in model.parameters() if p.device.type != "cpu"}
        buffers = {buffer: buffer.clone() for buffer in model.buffers()}
        with restored_generators(list(devices)):
            with runner.optim_wrapper.optim_context(model):  # same precision as in training
                data = model.data_preprocessor(data_batch, True)
                losses = task_losses(model, data["inputs"], data["data_samples"])
            candidates = find_candidates(model, self.parameters)
            cosines, self.record["shared_parameters"] = measure_conflict(losses, candidates)
        for buffer, value in buffers.items():  # restore normalisation statistics
            buffer.copy_(value)
        add_cosines(self.record, runner.iter + 1, [row.tolist() for row in all_gather(cosines)])

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the measurements so far."""
        if is_main_process():
            write_record(Path(runner.work_dir) / RECORD_FILE, self.record)

    def after_train(self, runner: Runner) -> None:
        """Log the table and draw the figure."""
        if is_main_process() and self.record["iterations"]:
            self.after_train_epoch(runner)
            records = {Path(runner.work_dir).name: self.record}
            runner.logger.info(f"gradient conflict\n{render_table(conflict_table(records))}")
            write_image(Path(runner.work_dir) / f"{_KEY}.png", draw_conflicts(records))
