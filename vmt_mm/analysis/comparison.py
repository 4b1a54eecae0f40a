"""Train configs with several seeds; compare scores, parameters, cost and Delta.

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
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from mmengine.config import Config

from vmt_mm.analysis.counts import summarize_experiment
from vmt_mm.analysis.experiment import Experiment, load_experiments
from vmt_mm.analysis.logs import read_log, train_times
from vmt_mm.checkpoints.files import LAST_VALIDATION
from vmt_mm.checkpoints.keys import some
from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.evaluation.evaluator import check_directions, relative_gain, results_of
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
        """Return the settings that determine the result, in JSON types; validations do not."""
        settings = {**self.cfg.to_dict(), "seed": self.seed}
        settings["train_cfg"] = {**settings["train_cfg"], "val_interval": None}
        return json.loads(json.dumps(settings, default=repr))

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
        there["train_cfg"]["val_interval"] = None
        if differing := [key for key in there | here if there.get(key) != here.get(key)]:
            problem = f"belongs to a run with different settings: {some(differing)}"
            raise InputError(f"{path}: {problem}; remove the folder or give another --work-dir")
        return record

    def log(self) -> list[dict[str, Any]]:
        """Return the records of the training's log, none if there is no log."""
        return read_log(self.folder) if any(self.folder.glob("20*/vis_data/*.json")) else []

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
    """Plan the runs, seed by seed, validated at their end if ``options`` have no interval."""
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
    runs: Sequence[Run], reference: str | None, titles: Mapping[str, str], command: str,
    metrics: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Collect the results of finished runs, in JSON types; ``titles`` maps names of configs.

    ``metrics`` are further columns, such as "depth/abs_rel"; InputError if one is no score.
    """
    tasks = scored_tasks(runs[0].experiment)
    known = results_of(dict(type="MultiTaskEvaluator", tasks=tasks, metrics=[]), {}).keys
    if wrong := [key for key in metrics if not known.get(key)]:
        scores = ", ".join(key for key, way in known.items() if way and key != "delta")
        raise InputError(f"--metrics: expected some of {scores}, got {wrong[0]!r}")
    keys = {name: f"{name}/{task.primary_metric}" for name, task in tasks.items()}
    keys |= {key: key for key in metrics}
    rows = {}
    for path, experiment in {run.experiment.path: run.experiment for run in runs}.items():
        counts, name = summarize_experiment(experiment), experiment.name
        own_runs = [run for run in runs if run.experiment.path == path]
        own = _scores(own_runs, keys) | _costs(own_runs)
        rows[path] = dict(
            name=name, title=titles.get(name, name), encoder=counts["encoder_trainable"],
            all=counts["total_trainable"], **own,
            passes=1 if counts["passes"] == "shared" else counts["tasks"],
            progress=_progress(own_runs, {name: keys[name] for name in tasks}),
        )  # fmt: skip
    base = {task: rows[reference]["scores"][task]["mean"] for task in tasks if reference}
    for row in rows.values():
        by_task = {task: row["scores"][task]["values"] for task in tasks}
        complete = set.intersection(*map(set, by_task.values())) if all(base.values()) else set()
        row["delta"] = _spread({
            seed: relative_gain({t: v[seed] for t, v in by_task.items()}, base, tasks)
            for seed in sorted(complete) if base
        })  # fmt: skip
        for point in sum(row["progress"].values(), []) if base and all(base.values()) else ():
            point["delta"] = relative_gain(point["scores"], base, tasks)
    about = {name: dict(metric=key.split("/")[1], higher_is_better=known[key] == "greater")
             for name, key in keys.items()}  # fmt: skip
    title = rows[reference]["title"] if reference else None
    base = dict(title=title, scores=base)
    return dict(columns=about, reference=base, rows=list(rows.values()), command=command)


def _scores(runs: Sequence[Run], keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the scores of a row's runs by column, and descriptions of missing ones."""
    scores: dict[str, dict[str, float]] = {name: {} for name in keys}
    missing = []
    for run in runs:
        record = run.read()
        if "metrics" not in record:
            ended = f"failed, see {run.folder / LOG}" if "code" in record else "has not finished"
            missing.append(f"{run.name} {ended if record else 'has not started'}")
        for name, key in keys.items() if "metrics" in record else ():
            if key in record["metrics"]:
                scores[name][str(run.seed)] = record["metrics"][key]
            elif run.task in (None, key.split("/")[0]):
                missing.append(f"{run.name} has no {key}")
    return dict(scores={t: _spread(values) for t, values in scores.items()}, missing=missing)


def _costs(runs: Sequence[Run]) -> dict[str, float | None]:
    """Return the median seconds of a ``step`` and the peak ``memory`` in GB, from the logs.

    A step of models per task is one of each. None if no log has the value.
    """
    steps: dict[str | None, list[float]] = {}
    peaks = []
    for run in runs:
        if records := [r for r in run.log() if "epoch" in r and "time" in r]:
            steps.setdefault(run.task, []).append(train_times(records)["median_s"])
            peaks += [r["memory"] / 1024 for r in records if "memory" in r]
    return dict(step=sum(map(median, steps.values())) or None, memory=max(peaks, default=None))


def _progress(runs: Sequence[Run], keys: Mapping[str, str]) -> dict[str, list[dict[str, Any]]]:
    """Return each seed's validations, with ``minutes`` of training steps (added, if of several
    models) and ``scores``.
    """
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in runs:
        points = found.setdefault(str(run.seed), {})
        for record in (r for r in run.log() if "train_seconds" in r):
            point = points.setdefault(record["step"], dict(minutes=0.0, scores={}))
            point["minutes"] += record["train_seconds"] / 60
            point["scores"] |= {name: record[key] for name, key in keys.items() if key in record}
    return {seed: [p for _, p in sorted(points.items()) if len(p["scores"]) == len(keys)]
            for seed, points in found.items()}  # fmt: skip


def _spread(values: Mapping[str, float]) -> dict[str, Any]:
    """Values over seeds with their mean and sample standard deviation."""
    mean = fmean(values.values()) if values else None
    spread = stdev(values.values()) if len(values) > 1 else None
    return dict(values=dict(values), mean=mean, spread=spread)


def to_markdown(comparison: Mapping[str, Any]) -> str:
    """Format the result of :func:`compare` as a Markdown table, with missing runs and command."""
    rows, title = comparison["rows"], comparison["reference"]["title"]
    columns = {}
    for name, about in comparison["columns"].items():
        arrow, sign = ("↑", 1) if about["higher_is_better"] else ("↓", -1)
        head = f"{name.split('/')[0]} {about['metric']} {arrow}"
        columns[head] = sign, [row["scores"][name] for row in rows]
    if any(row["delta"]["values"] for row in rows):
        columns["Δ (%) ↑"] = 1, [row["delta"] for row in rows]
    heads = ["method", "trainable, backbone (M)", "trainable, all (M)", "passes", *columns]
    cells = [[row["title"] + (" †" if row["missing"] else ""), f"{row['encoder'] / 1e6:.3f}",
              f"{row['all'] / 1e6:.3f}", str(row["passes"])] for row in rows]  # fmt: skip
    for head, (sign, values) in columns.items():
        means = [v["mean"] for v in values if v["mean"] is not None]
        best = max((sign * mean for mean in means), default=0)
        digits = 2 if "Δ" in head or max(map(abs, means), default=0) > 2 else 3  # such as metres
        for row, value in zip(cells, values, strict=True):
            mean = None if value["mean"] is None else round(value["mean"], digits) + 0.0  # no -0.00
            text = "–" if mean is None else f"{mean:{'+' if 'Δ' in head else ''}.{digits}f}"
            text += "" if value["spread"] is None else f" ± {value['spread']:.{digits}f}"
            row.append(f"**{text}**" if value["mean"] == sign * best else text)
    for cost, head in dict(step="step (s)", memory="memory (GB)").items():
        if any(row[cost] for row in rows):
            heads.append(head)
            for row, own in zip(rows, cells, strict=True):
                own.append(f"{row[cost]:.2f}" if row[cost] else "–")
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


def draw_progress(comparison: Mapping[str, Any]) -> np.ndarray | None:
    """Draw Delta and the tasks' scores over minutes of training, as RGB; None without curves."""
    lines = [(row["title"], points) for row in comparison["rows"]
             for points in row["progress"].values() if len(points) > 1]  # fmt: skip
    if not lines:
        return None
    panels = {f"{name} {about['metric']}": name for name, about in comparison["columns"].items()
              if name in lines[0][1][0]["scores"]}  # fmt: skip
    if "delta" in lines[0][1][0]:
        panels = {f"Δ over {comparison['reference']['title']} (%)": None, **panels}
    figure = Figure(figsize=(15, 4 * -(-len(panels) // 3)), dpi=100, layout="constrained")
    axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).ravel()
    colors = dict(zip(dict(lines), colormaps["tab20"].colors * len(lines), strict=False))
    for axis in axes[len(panels) :]:
        axis.axis("off")
    for axis, (label, name) in zip(axes, panels.items(), strict=False):
        axis.set(title=label, xlabel="minutes of training steps")
        for title, points in lines:
            values = [point["scores"][name] if name else point["delta"] for point in points]
            minutes = [point["minutes"] for point in points]
            axis.plot(minutes, values, "o-", markersize=3, color=colors[title], label=title)
    named = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))  # seeds share one
    figure.legend([*named.values()], [*named], loc="outside right upper", frameon=False)
    return draw_figure(figure)
