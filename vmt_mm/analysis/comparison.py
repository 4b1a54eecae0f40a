"""Train configs with several seeds and compare their scores, parameters and Delta.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Table 2 and Fig. 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from mmengine.config import Config

from vmt_mm.analysis.experiment import Experiment, load_experiments
from vmt_mm.analysis.parameters import summarize_experiment
from vmt_mm.checkpoints.files import LAST_VALIDATION
from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.evaluation.evaluator import check_directions, relative_gain
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.files import write_json
from vmt_mm.visualization.figure import draw_figure

#: What a run's folder holds in addition: settings and result of the run, and what it printed.
RECORD, LOG = "run.json", "output.log"


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a config, its title, its tasks that have a primary metric.

    ``configs`` holds the merged config of each model: by task where a model has a single task, else
    by None.
    """

    experiment: Experiment
    title: str
    tasks: Mapping[str, Task]
    configs: Mapping[str | None, Config]


@dataclass(frozen=True)
class Run:
    """A training of a row's model, on one task or all (None), in a work dir of its own."""

    entry: Entry
    task: str | None
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Config, task and seed."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def settings(self) -> dict[str, Any]:
        """What the result depends on, in JSON's types."""
        content = dict(config=self.entry.configs[self.task].to_dict(), seed=self.seed)
        return json.loads(json.dumps(content, default=repr))

    def command(self, script: Path, options: Sequence[str]) -> list[str]:
        """The training's command line, which resumes it where there is a checkpoint."""
        interval = self.entry.configs[self.task].train_cfg.val_interval
        own = [f"train_cfg.val_interval={interval}", *([f"task={self.task}"] if self.task else [])]
        return [sys.executable, str(script), self.entry.experiment.path,
                "--cfg-options", *options, *own, "--work-dir", str(self.folder),
                "--seed", str(self.seed), "--resume", "auto"]  # fmt: skip

    def read(self) -> dict[str, Any]:
        """Its record: ``settings``; ``code`` once it ended; ``metrics`` and ``seconds`` if well.

        Returns:
            An empty one where nothing has been run.

        Raises:
            InputError: if the folder belongs to another training.
        """
        path = self.folder / RECORD
        if not path.is_file():
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise InputError(
                    f"{self.folder}: holds something that is no run of a comparison (there is no "
                    f"{RECORD}); remove it or give another --work-dir"
                )
            return {}
        record = json.loads(path.read_text())
        if found := list(_differences(record["settings"], self.settings()))[:3]:
            raise InputError(
                f"{self.folder}: belongs to a run of other settings, {'; '.join(found)}; "
                "remove the folder or give another --work-dir"
            )
        return record

    def train(self, command: Sequence[str], threads: int, children: list) -> None:
        """Run the training's command; its process is in ``children`` meanwhile."""
        record = dict(settings=self.settings(), seconds=self.read().get("seconds", 0.0))
        write_json(self.folder / RECORD, record)
        begin, environment = time.monotonic(), {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with (self.folder / LOG).open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            children.append(child)
            record["code"] = child.wait()
            children.remove(child)
        record["seconds"] += time.monotonic() - begin
        path = self.folder / LAST_VALIDATION
        if record["code"] == 0 and path.is_file():
            record["metrics"] = json.loads(path.read_text())["metrics"]
        write_json(self.folder / RECORD, record)


def read_entry(path: str, options: Mapping[str, Any], title: str | None = None) -> Entry:
    """Read a config of a comparison; by default it is validated once, at its end.

    Args:
        path: config file.
        options: ``--cfg-options``.
        title: name of the row; the file's name by default.
    """
    (experiment,) = load_experiments([path], options)
    length = experiment.cfg.get("train_cfg") or {}
    last = length.get("max_epochs", length.get("max_iters"))
    if last is None:
        raise InputError(f"{path}: train_cfg has neither max_epochs nor max_iters")
    tasks = build_tasks(experiment.cfg.model.tasks)
    scored = {name: task for name, task in tasks.items() if task.primary_metric}
    if not scored:
        raise InputError(f"{path}: none of its tasks {list(tasks)} has a metric to compare")
    check_directions(scored)
    options = {"train_cfg.val_interval": last, **options}
    configs = {
        task: load_config(path, {**options, "task": task} if task else options)
        for task in (scored if experiment.model_per_task else [None])
    }
    return Entry(experiment, title or experiment.name, scored, configs)


def plan_runs(entries: Sequence[Entry], seeds: Sequence[int], work_dir: Path) -> list[Run]:
    """Every run of a comparison, all configs with one seed before the next seed.

    Raises:
        InputError: if two configs share a name, or their tasks differ.
    """
    names = [entry.experiment.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two configs are named {twice[0]!r}; their runs would share a folder")
    kinds = [{name: type(task) for name, task in entry.tasks.items()} for entry in entries]
    for entry, theirs in zip(entries, kinds, strict=True):
        if theirs != kinds[0]:
            raise InputError(
                f"{entry.experiment.path}: its tasks {list(theirs)} are not those of "
                f"{entries[0].experiment.path}, {list(kinds[0])}; a comparison needs the same"
            )
    return [
        Run(entry, task, seed, work_dir / (f"{name}-{task}" if task else name) / f"seed{seed}")
        for seed in seeds
        for name, entry in zip(names, entries, strict=True)
        for task in entry.configs
    ]


def train_runs(
    runs: Sequence[Run],
    commands: Sequence[Sequence[str]],
    slots: int,
    on_end: Callable[[Run], None],
) -> None:
    """Run the trainings' commands, ``slots`` at a time, which share the cores.

    Ctrl-C asks those that run to stop. ``on_end`` is called after each.
    """
    children: list[subprocess.Popen] = []
    threads, pool = max(1, (os.cpu_count() or 1) // slots), ThreadPoolExecutor(slots)
    pairs = zip(runs, commands, strict=True)
    futures = {pool.submit(run.train, one, threads, children): run for run, one in pairs}
    try:
        for future in as_completed(futures):
            future.result()
            on_end(futures[future])
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(children):
            child.terminate()
        raise
    finally:
        pool.shutdown()


def choose_reference(entries: Sequence[Entry], path: str | None) -> Entry | None:
    """The row whose scores are the S of Delta: that of ``path``, else the one of a model per task.

    Raises:
        InputError: if several could be meant.
    """
    if path is not None:
        return next(entry for entry in entries if entry.experiment.path == path)
    single = [entry for entry in entries if entry.experiment.model_per_task]
    if len(single) > 1:
        paths = ", ".join(entry.experiment.path for entry in single)
        raise InputError(f"{paths} all train one model per task; choose one by --reference")
    return single[0] if single else None


def cost_of(entry: Entry) -> dict[str, Any]:
    """Trainable parameters of ``encoder`` and ``all``, and ``passes`` through the encoder."""
    counts = summarize_experiment(entry.experiment)
    passes = 1 if counts["passes"] == "shared" else counts["tasks"]
    return dict(encoder=counts["encoder_trainable"], all=counts["total_trainable"], passes=passes)


def compare(
    entries: Sequence[Entry],
    runs: Sequence[Run],
    reference: Entry | None,
    costs: Sequence[Mapping[str, Any]],
    command: str,
) -> dict[str, Any]:
    """Put together what is finished, in JSON's types.

    Args:
        entries: the rows, in order.
        runs: the runs of all of them.
        reference: the row whose mean scores are the S of Delta.
        costs: of each row, see :func:`cost_of`.
        command: the command line that makes it.

    Returns:
        ``tasks``: name -> ``metric``, ``higher_is_better``. ``reference``: ``name``, ``title``,
        ``scores``, or why there are none as ``missing``. ``rows``: costs, ``scores`` by task and
        ``delta``, each with ``values`` by seed, ``mean`` and ``spread`` (sample standard
        deviation), its ``runs``, and what is ``missing``. ``command``.
    """
    tasks = entries[0].tasks
    rows = [
        dict(name=e.experiment.name, title=e.title, config=e.experiment.path, **cost)
        | _scores(e, [run for run in runs if run.entry is e])
        for e, cost in zip(entries, costs, strict=True)
    ]
    base: dict[str, Any] = dict(name=None, title=None, scores=None)
    if reference is None:
        base["missing"] = (
            "no config trains one task alone (a top-level `task`), and no --reference is given"
        )
    else:
        row = rows[list(entries).index(reference)]
        scores = {task: score["mean"] for task, score in row["scores"].items()}
        unknown = [task for task, score in scores.items() if not score]
        base = dict(name=row["name"], title=row["title"], scores=None if unknown else scores)
        lacks = f"{row['title']}, the reference, has no {', '.join(unknown)} yet"
        base["missing"] = lacks if unknown else None
    for row in rows:
        by_task = {task: score["values"] for task, score in row["scores"].items()}
        complete = set.intersection(*map(set, by_task.values())) if base["scores"] else set()
        row["delta"] = _spread({
            seed: relative_gain({t: v[seed] for t, v in by_task.items()}, base["scores"], tasks)
            for seed in sorted(complete)
        })  # fmt: skip
    about = {name: dict(metric=task.primary_metric, higher_is_better=task.higher_is_better)
             for name, task in tasks.items()}  # fmt: skip
    return dict(tasks=about, reference=base, rows=rows, command=command)


def _scores(entry: Entry, runs: Sequence[Run]) -> dict[str, Any]:
    """A row's scores, runs, and what is missing."""
    scores: dict[str, dict[str, float]] = {task: {} for task in entry.tasks}
    about, missing = [], []
    for run in runs:
        record = run.read()
        metrics = record.get("metrics")
        about.append(dict(task=run.task, seed=run.seed, folder=str(run.folder),
                          seconds=record.get("seconds"), metrics=metrics))  # fmt: skip
        if metrics is None:
            failed = f"failed, see {run.folder / LOG}" if "code" in record else "has not ended"
            missing.append(f"{run.name} {failed if record else 'has not been started'}")
            continue
        for name in [run.task] if run.task else entry.tasks:
            key = f"{name}/{entry.tasks[name].primary_metric}"
            if key in metrics:
                scores[name][str(run.seed)] = metrics[key]
            else:
                missing.append(f"{run.name} has no {key}")
    spreads = {task: _spread(values) for task, values in scores.items()}
    return dict(scores=spreads, missing=missing, runs=about)


def _spread(values: Mapping[str, float]) -> dict[str, Any]:
    numbers = list(values.values())
    return dict(values=dict(values), mean=fmean(numbers) if numbers else None,
                spread=stdev(numbers) if len(numbers) > 1 else None)  # fmt: skip


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """What :func:`compare` gives as a Markdown table, with what is missing and the command."""
    rows, base = comparison["rows"], comparison["reference"]
    columns = {}
    for name, task in comparison["tasks"].items():
        arrow, sign = ("↑", 1) if task["higher_is_better"] else ("↓", -1)
        columns[f"{name} {task['metric']} {arrow}"] = sign, [row["scores"][name] for row in rows]
    if base["scores"]:
        columns["Δ (%) ↑"] = 1, [row["delta"] for row in rows]
    heads = ["method", "trainable, encoder (M)", "trainable, all (M)", "passes", *columns]
    cells = [[row["title"] + (" †" if row["missing"] else ""), f"{row['encoder'] / 1e6:.3f}",
              f"{row['all'] / 1e6:.3f}", str(row["passes"])] for row in rows]  # fmt: skip
    for head, (sign, values) in columns.items():
        best = max((sign * round(v["mean"], 2) for v in values if v["mean"] is not None), default=0)
        for row, value in zip(cells, values, strict=True):
            text = _format(value, "+" if head.startswith("Δ") else "")
            top = value["mean"] is not None and sign * round(value["mean"], 2) == best
            row.append(f"**{text}**" if top else text)
    table = [heads, ["---", *["--:"] * (len(heads) - 1)], *cells]
    seeds = sorted({run["seed"] for row in rows for run in row["runs"]})
    spread = "; mean ± sample standard deviation" if len(seeds) > 1 else ""
    over = f"mean relative gain over the mean scores of {base['title']}"
    delta = f"Δ: {over}." if base["scores"] else f"Δ is left out: {base['missing']}."
    notes = [f"Seeds {', '.join(map(str, seeds))}{spread}. Bold: the best of a column. {delta}"]
    if base["scores"]:
        notes.append("![Δ against trainable parameters of the encoder](comparison.png)")
    notes += [f"† {row['title']} is incomplete: {'; '.join(row['missing'])}."
              for row in rows if row["missing"]]  # fmt: skip
    lines = "\n".join(f"| {' | '.join(line)} |" for line in table)
    return "\n\n".join([lines, *notes, f"    {comparison['command']}\n"])


def _format(value: Mapping[str, Any], sign: str) -> str:
    if value["mean"] is None:
        return "–"
    spread = "" if value["spread"] is None else f" ± {value['spread']:.2f}"
    return f"{round(value['mean'], 2) + 0.0:{sign}.2f}{spread}"  # no minus before 0.00


def draw_comparison(comparison: Mapping[str, Any]) -> np.ndarray | None:
    """Draw Delta against the encoder's trainable parameters, on a logarithmic axis.

    Circles are methods with one pass through the encoder for all tasks, squares those with a pass
    for each; bars are the spread over seeds.

    Returns:
        RGB image (H, W, 3), uint8; None where no row has a Delta.
    """
    rows = [row for row in comparison["rows"] if row["delta"]["mean"] is not None]
    if not rows:
        return None
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale(
        "symlog", linthresh=min((r["encoder"] for r in rows if r["encoder"]), default=1)
    )
    for row, color in zip(rows, colormaps["tab20"].colors * len(rows), strict=False):
        axes.errorbar(
            row["encoder"], row["delta"]["mean"], yerr=row["delta"]["spread"], color=color,
            marker="o" if row["passes"] == 1 else "s", linestyle="", capsize=3, label=row["title"],
        )  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axes.grid(axis="y", color="0.92")
    axes.set_xlabel("trainable parameters of the encoder (squares: a pass for each task)")
    axes.set_ylabel(f"Δ over {comparison['reference']['title']} (%)")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return draw_figure(figure)


def _differences(there: Any, here: Any, key: str = "") -> Iterator[str]:
    """Entries of two trees that differ, as text."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in there | here:
            yield from _differences(there.get(name), here.get(name), f"{key}.{name}".strip("."))
    elif there != here:
        yield f"{key}: {there!r} there, {here!r} here"
