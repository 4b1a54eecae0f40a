"""The trainings that a comparison of configs consists of, and what is known of each."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config

from vmt_mm.analysis.models import Experiment, load_experiments
from vmt_mm.apis import load_config
from vmt_mm.checkpoints.files import LAST_VALIDATION
from vmt_mm.errors import InputError
from vmt_mm.evaluation.evaluator import check_directions
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.files import write_json

#: What a run's folder holds beside the training's own files: its settings, and what it printed.
RECORD, LOG = "run.json", "output.log"
_VAL_INTERVAL = "train_cfg.val_interval"
_EPOCH = re.compile(r"Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\]")
_ITERATION = re.compile(r"Iter\(train\)\s+\[\s*(\d+)/(\d+)\]")


@dataclass(frozen=True)
class Entry:
    """A config of the comparison: one row.

    Attributes:
        experiment: the file, and whether it stands for one model a task.
        title: what table and picture call it.
        tasks: every task of the row that has a primary metric.
        configs: the merged config of each of its models: by task where there is one a task, else
            by None.
    """

    experiment: Experiment
    title: str
    tasks: Mapping[str, Task]
    configs: Mapping[str | None, Config]

    @property
    def name(self) -> str:
        """What its folders are called."""
        return self.experiment.name


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        entry: the config it belongs to.
        task: the task it trains alone; None trains all.
        seed: seed of everything random.
        folder: its work dir.
    """

    entry: Entry
    task: str | None
    seed: int
    folder: Path

    @property
    def model_name(self) -> str:
        """Config and task."""
        return self.folder.parent.name

    @property
    def name(self) -> str:
        """Config, task and seed."""
        return f"{self.model_name}/{self.folder.name}"

    @property
    def settings(self) -> dict[str, Any]:
        """What the result depends on, in JSON's types."""
        content = dict(config=self.entry.configs[self.task].to_dict(), seed=self.seed)
        return json.loads(json.dumps(content, default=repr))

    def config_arguments(self, options: Sequence[str]) -> list[str]:
        """The config and its options, as the tools take them.

        Args:
            options: ``KEY=VALUE``, of the user.
        """
        interval = self.entry.configs[self.task].train_cfg.val_interval
        own = [f"{_VAL_INTERVAL}={interval}", *([f"task={self.task}"] if self.task else [])]
        return [self.entry.experiment.path, "--cfg-options", *options, *own]

    def command(self, script: Path, options: Sequence[str]) -> list[str]:
        """The training's command line; it goes on where there is a checkpoint.

        Args:
            script: ``tools/train.py``.
            options: ``KEY=VALUE``, of the user.
        """
        return [
            *(sys.executable, str(script), *self.config_arguments(options)),
            *("--work-dir", str(self.folder), "--seed", str(self.seed), "--resume", "auto"),
        ]

    def progress(self, output: str) -> tuple[float, str]:
        """The part that is done, 0..1, and a word on it, from the end of what it printed."""
        length = self.entry.configs[self.task].train_cfg
        if epochs := _EPOCH.findall(output):
            epoch, done, total = map(int, epochs[-1])
            part = (epoch - 1 + done / total) / length.max_epochs
            return part, f"epoch {epoch} of {length.max_epochs}"
        if iterations := _ITERATION.findall(output):
            done, total = map(int, iterations[-1])
            return done / total, f"iteration {done} of {total}"
        return 0.0, ""

    def read(self) -> dict[str, Any] | None:
        """Its record: ``settings``, ``code`` of the last end, ``seconds``, ``iter`` when finished.

        Returns:
            None where nothing has been run.

        Raises:
            InputError: if the folder belongs to another training.
        """
        path = self.folder / RECORD
        if not path.is_file():
            if self.folder.is_dir() and any(p.name[0] != "." for p in self.folder.iterdir()):
                raise InputError(
                    f"{self.folder}: holds something that is no run of a comparison (there is no "
                    f"{RECORD}); remove it or give another --work-dir"
                )
            return None
        record = json.loads(path.read_text())
        if differing := _differences(record["settings"], self.settings):
            raise InputError(
                f"{self.folder}: belongs to a run of other settings, {'; '.join(differing)}; "
                "remove the folder or give another --work-dir"
            )
        return record

    def metrics(self) -> dict[str, float] | None:
        """Metrics of the last validation of a finished run; None before.

        Raises:
            InputError: if the folder belongs to another training.
        """
        record, path = self.read(), self.folder / LAST_VALIDATION
        if record is None or record["iter"] is None or not path.is_file():
            return None
        last = json.loads(path.read_text())
        return last["metrics"] if last["iter"] == record["iter"] else None

    def is_still(self, options: Mapping[str, Any]) -> bool:
        """Whether its config file still says what it said when the comparison began."""
        try:
            now = read_entry(self.entry.experiment.path, options)
        except InputError:
            return False
        return self.task in now.configs and replace(self, entry=now).settings == self.settings

    def note_start(self) -> None:
        """Write down whose folder this is."""
        seconds = (self.read() or {}).get("seconds", 0.0)
        self._write(None, seconds, None)

    def note_end(self, code: int | None, seconds: float) -> bool:
        """Write down how it ended; tell whether it is finished, with its last epoch validated.

        Args:
            code: exit code of the training; None where it was asked to end.
            seconds: how long it ran this time.
        """
        path, iteration = self.folder / LAST_VALIDATION, None
        if code == 0 and path.is_file():
            iteration = json.loads(path.read_text())["iter"]
        self._write(code, (self.read() or {}).get("seconds", 0.0) + seconds, iteration)
        return iteration is not None

    def _write(self, code: int | None, seconds: float, iteration: int | None) -> None:
        record = dict(code=code, seconds=seconds, iter=iteration, settings=self.settings)
        write_json(self.folder / RECORD, record)


def read_entry(path: str, options: Mapping[str, Any], title: str | None = None) -> Entry:
    """Read one config of a comparison.

    Unless the options say otherwise, it is validated once, at its end.

    Args:
        path: config file.
        options: ``--cfg-options``.
        title: what to call it; its stem by default.

    Raises:
        InputError: if the config is wrong, no task of it has a metric, or a metric does not declare
            which way it is better.
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
    options = {_VAL_INTERVAL: last, **options}
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
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two configs are named {twice[0]!r}; their runs would share a folder")
    for entry in entries[1:]:
        ours, theirs = ({n: type(t) for n, t in e.tasks.items()} for e in (entries[0], entry))
        if ours != theirs:
            raise InputError(
                f"{entry.experiment.path}: its tasks {list(theirs)} are not those of "
                f"{entries[0].experiment.path}, {list(ours)}; a comparison needs the same"
            )
    return [
        Run(
            entry, task, seed, work_dir / "-".join(filter(None, (entry.name, task))) / f"seed{seed}"
        )
        for seed in seeds
        for entry in entries
        for task in entry.configs
    ]


def _differences(former: Any, now: Any, key: str = "", most: int = 3) -> list[str]:
    """The first entries of two trees that differ, as text."""
    if isinstance(former, dict) and isinstance(now, dict):
        found: list[str] = []
        for name in [*former, *(name for name in now if name not in former)]:
            below = f"{key}.{name}" if key else name
            found += _differences(former.get(name), now.get(name), below)
        return found[:most]
    return [] if former == now else [f"{key}: {former!r} there, {now!r} here"]
