"""Train configs with several seeds; compare scores, parameters and Delta.

Paper: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733, Table 2 and Fig. 1.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from mmengine.config import Config

from vmt_mm.analysis.counts import summarize_experiment
from vmt_mm.analysis.experiment import Experiment, load_experiments
from vmt_mm.checkpoints.files import LAST_VALIDATION
from vmt_mm.checkpoints.keys import some
from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.evaluation.evaluator import check_directions, relative_gain
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.files import write_json
from vmt_mm.visualization.figure import draw_figure

#: Files that a comparison adds to a run's folder: settings with result, and the run's output.
RECORD, LOG = "run.json", "output.log"


@dataclass(frozen=True)
class Run:
    """A training run of a config, on all tasks or a single one, in its own work dir."""

    experiment: Experiment
    task: str | None
    seed: int
    folder: Path
    cfg: Config

    @property
    def name(self) -> str:
        """Config, task and seed."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def settings(self) -> dict[str, Any]:
        """Return the settings that determine the result, in JSON types."""
        return json.loads(json.dumps({**self.cfg.to_dict(), "seed": self.seed}, default=repr))

    def command(self, script: Path, options: Sequence[str]) -> list[str]:
        """Return the training command, which resumes from a checkpoint if there is one."""
        own = [f"train_cfg.val_interval={self.cfg.train_cfg.val_interval}"]
        own += [f"task={self.task}"] if self.task else []
        return [sys.executable, str(script), self.experiment.path, "--cfg-options", *options, *own,
                "--work-dir", str(self.folder), "--seed", str(self.seed),
                "--resume", "auto"]  # fmt: skip

    def read(self) -> dict[str, Any]:
        """Return ``settings``, exit ``code``, ``metrics`` and ``seconds``; {} before the start."""
        path = self.folder / RECORD
        if not path.is_file():
            return {}
        record = json.loads(path.read_text())
        there, here = record["settings"], self.settings()
        if differing := [key for key in there | here if there.get(key) != here.get(key)]:
            problem = f"belongs to a run with different settings: {some(differing)}"
            raise InputError(f"{path}: {problem}; remove the folder or give another --work-dir")
        return record

    def train(self, command: Sequence[str], threads: int, children: list) -> None:
        """Run the command and add its process to ``children``."""
        record = dict(settings=self.settings(), seconds=self.read().get("seconds", 0.0))
        write_json(self.folder / RECORD, record)
        begin, environment = time.monotonic(), {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with (self.folder / LOG).open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            children.append(child)
            record["code"] = child.wait()
        record["seconds"] += time.monotonic() - begin
        path = self.folder / LAST_VALIDATION
        if record["code"] == 0 and path.is_file():
            record["metrics"] = json.loads(path.read_text())["metrics"]
        write_json(self.folder / RECORD, record)


def scored_tasks(experiment: Experiment) -> dict[str, Task]:
    """Return the tasks of a config that have a primary metric; its direction must be known."""
    tasks = build_tasks(experiment.cfg.model.tasks)
    scored = {name: task for name, task in tasks.items() if task.primary_metric}
    if not scored:
        raise InputError(f"{experiment.path}: none of the tasks {list(tasks)} has a primary metric")
    check_directions(scored)
    return scored


def plan_runs(
    paths: Sequence[str], options: Mapping[str, Any], seeds: Sequence[int], work_dir: Path
) -> list[Run]:
    """Plan the runs, seed by seed; each run is validated once, at its end."""
    experiments = load_experiments(paths, options)
    names = [experiment.name for experiment in experiments]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two configs are named {twice[0]!r}, so their runs would share a folder")
    kinds = [{n: type(t) for n, t in scored_tasks(e).items()} for e in experiments]
    models = []
    for experiment, own in zip(experiments, kinds, strict=True):
        if own != kinds[0]:
            tasks = f"its tasks are {list(own)}, but those of {paths[0]} are {list(kinds[0])}"
            raise InputError(f"{experiment.path}: {tasks}; a comparison needs the same tasks")
        length = experiment.cfg.train_cfg
        last = length.get("max_epochs", length.get("max_iters"))
        for task in own if experiment.model_per_task else [None]:
            chosen = {"train_cfg.val_interval": last, **options} | ({"task": task} if task else {})
            folder = work_dir / (f"{experiment.name}-{task}" if task else experiment.name)
            models.append((experiment, task, folder, load_config(experiment.path, chosen)))
    return [Run(e, t, seed, f / f"seed{seed}", cfg) for seed in seeds for e, t, f, cfg in models]


def train_runs(
    runs: Sequence[Run], commands: Sequence[Sequence[str]], slots: int, on_end: Callable
) -> None:
    """Run training commands, ``slots`` at a time; they share the cores, and Ctrl-C stops them."""
    children: list[subprocess.Popen] = []
    threads = max(1, (os.cpu_count() or 1) // slots)
    with ThreadPoolExecutor(slots) as pool:
        pairs = zip(runs, commands, strict=True)
        futures = {pool.submit(run.train, one, threads, children): run for run, one in pairs}
        try:
            for future in as_completed(futures):
                future.result()
                on_end(futures[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()
            raise


def choose_reference(runs: Sequence[Run], asked: str | None) -> str | None:
    """Choose the config whose scores are Delta's reference: by default, a model per task."""
    single = list(dict.fromkeys(r.experiment.path for r in runs if r.experiment.model_per_task))
    if asked is None and len(single) > 1:
        raise InputError(f"{', '.join(single)} train one model per task; set --reference to one")
    return asked or (single[0] if single else None)


def compare(
    runs: Sequence[Run], reference: str | None, titles: Mapping[str, str], command: str
) -> dict[str, Any]:
    """Collect the results of finished runs, in JSON types; ``titles`` maps names of configs."""
    tasks = scored_tasks(runs[0].experiment)
    rows = {}
    for path, experiment in {run.experiment.path: run.experiment for run in runs}.items():
        counts, name = summarize_experiment(experiment), experiment.name
        own = _scores([run for run in runs if run.experiment.path == path], tasks)
        rows[path] = dict(
            name=name, title=titles.get(name, name), encoder=counts["encoder_trainable"],
            all=counts["total_trainable"], **own,
            passes=1 if counts["passes"] == "shared" else counts["tasks"],
        )  # fmt: skip
    scores = rows[reference]["scores"] if reference else {}
    base = {task: score["mean"] for task, score in scores.items()}
    for row in rows.values():
        by_task = {task: score["values"] for task, score in row["scores"].items()}
        complete = set.intersection(*map(set, by_task.values())) if all(base.values()) else set()
        row["delta"] = _spread({
            seed: relative_gain({t: v[seed] for t, v in by_task.items()}, base, tasks)
            for seed in sorted(complete) if base
        })  # fmt: skip
    about = {name: dict(metric=task.primary_metric, higher_is_better=task.higher_is_better)
             for name, task in tasks.items()}  # fmt: skip
    title = rows[reference]["title"] if reference else None
    base = dict(title=title, scores=base)
    return dict(tasks=about, reference=base, rows=list(rows.values()), command=command)


def _scores(runs: Sequence[Run], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Return the scores of a row's runs, and descriptions of missing ones."""
    scores: dict[str, dict[str, float]] = {task: {} for task in tasks}
    missing = []
    for run in runs:
        record = run.read()
        if "metrics" not in record:
            ended = f"failed, see {run.folder / LOG}" if "code" in record else "has not finished"
            missing.append(f"{run.name} {ended if record else 'has not started'}")
        for name in ([run.task] if run.task else tasks) if "metrics" in record else ():
            key = f"{name}/{tasks[name].primary_metric}"
            if key in record["metrics"]:
                scores[name][str(run.seed)] = record["metrics"][key]
            else:
                missing.append(f"{run.name} has no {key}")
    return dict(scores={t: _spread(values) for t, values in scores.items()}, missing=missing)


def _spread(values: Mapping[str, float]) -> dict[str, Any]:
    """Values over seeds with their mean and sample standard deviation."""
    mean = fmean(values.values()) if values else None
    spread = stdev(values.values()) if len(values) > 1 else None
    return dict(values=dict(values), mean=mean, spread=spread)


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """Format the result of :func:`compare` as a Markdown table, with missing runs and command."""
    rows, title = comparison["rows"], comparison["reference"]["title"]
    columns = {}
    for name, task in comparison["tasks"].items():
        arrow, sign = ("↑", 1) if task["higher_is_better"] else ("↓", -1)
        columns[f"{name} {task['metric']} {arrow}"] = sign, [row["scores"][name] for row in rows]
    if any(row["delta"]["values"] for row in rows):
        columns["Δ (%) ↑"] = 1, [row["delta"] for row in rows]
    heads = ["method", "trainable, backbone (M)", "trainable, all (M)", "passes", *columns]
    cells = [[row["title"] + (" †" if row["missing"] else ""), f"{row['encoder'] / 1e6:.3f}",
              f"{row['all'] / 1e6:.3f}", str(row["passes"])] for row in rows]  # fmt: skip
    for head, (sign, values) in columns.items():
        best = max((sign * v["mean"] for v in values if v["mean"] is not None), default=0)
        for row, value in zip(cells, values, strict=True):
            mean = None if value["mean"] is None else round(value["mean"], 2) + 0.0  # no -0.00
            text = "–" if mean is None else f"{mean:{'+' if 'Δ' in head else ''}.2f}"
            text += "" if value["spread"] is None else f" ± {value['spread']:.2f}"
            row.append(f"**{text}**" if value["mean"] == sign * best else text)
    table = [heads, ["---", *["--:"] * (len(heads) - 1)], *cells]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in table)
    over = f"the mean scores of {title}" if title else "nothing: there is no reference"
    notes = [f"Mean ± sample standard deviation over seeds; best in bold; Δ over {over}."]
    notes += [f"† {row['title']} is incomplete: {'; '.join(row['missing'])}."
              for row in rows if row["missing"]]  # fmt: skip
    return "\n\n".join([lines, *notes, f"    {comparison['command']}\n"])


def draw_comparison(comparison: Mapping[str, Any]) -> np.ndarray:
    """Draw Delta, with its spread, against the backbone's trainable parameters, as RGB."""
    rows = [row for row in comparison["rows"] if row["delta"]["mean"] is not None]
    figure = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    smallest = min((row["encoder"] for row in rows if row["encoder"]), default=1)
    axes.set_xscale("symlog", linthresh=smallest)  # includes 0
    for row, color in zip(rows, colormaps["tab20"].colors * len(rows), strict=False):
        axes.errorbar(
            row["encoder"], row["delta"]["mean"], row["delta"]["spread"], capsize=3, color=color,
            fmt="o" if row["passes"] == 1 else "s", label=row["title"],
        )  # fmt: skip
    axes.axhline(0, color="0.5", linewidth=1, linestyle="--", zorder=0)
    axes.set_xlabel("trainable parameters of the backbone (squares: one pass per task)")
    axes.set_ylabel(f"Δ over {comparison['reference']['title']} (%)")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return draw_figure(figure)
