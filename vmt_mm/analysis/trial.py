"""How long a training will take: a few of its steps, measured in a process of their own."""

from __future__ import annotations

import heapq
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.table import Column, Table

from vmt_mm.analysis.jobs import Job, duration, run_jobs
from vmt_mm.analysis.runs import Run
from vmt_mm.apis import load_config
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import write_json

#: Steps that are not timed (caches, threads and memory settle), and those that are.
_WARM_UP, _STEPS, _AT_LEAST_S = 3, 4, 3.0
_VAL_BATCHES = 2


@dataclass(frozen=True)
class Trial:
    """What was measured, in seconds, and how often the training will do it.

    Attributes:
        step, steps: a training step, its batch included.
        validation_batch, validation_batches: a batch of a validation; of all validations.
        checkpoint, checkpoints: writing one.
        start: from the start of the process to the first step.
    """

    step: float
    steps: int
    validation_batch: float
    validation_batches: int
    checkpoint: float
    checkpoints: int
    start: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the training will take."""
        return (
            self.start
            + self.step * self.steps
            + self.validation_batch * self.validation_batches
            + self.checkpoint * self.checkpoints
        )


def try_out(cfg: Config) -> tuple[Trial, float]:
    """Take a few steps of a training, at its size and batch, and measure them.

    Args:
        cfg: a config that :func:`vmt_mm.apis.load_config` made; the work dir is a temporary one.

    Returns:
        What was measured, and the seconds that this took.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir, cfg.log_level = folder, "WARNING"
        runner = MultiTaskRunner.from_cfg(cfg)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner._init_model_weights()
        begin = time.perf_counter()  # the data may have to be made first, which happens once
        loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner._val_loop = runner.build_val_loop(runner._val_loop)
        step = _time_training(runner)
        batch = _time_validation(runner)
        now = time.perf_counter()
        meta = dict(epoch=0, iter=0)
        runner.save_checkpoint(folder, "trial.pth", meta=meta, save_param_scheduler=False)
        done = time.perf_counter()
    by_epoch = hasattr(loop, "max_epochs")
    epochs = loop.max_epochs if by_epoch else loop.max_iters
    interval = (cfg.default_hooks.get("checkpoint") or {}).get("interval", 0)
    return Trial(
        step=step,
        steps=epochs * len(loop.dataloader) if by_epoch else epochs,
        validation_batch=batch,
        validation_batches=-(-epochs // loop.val_interval) * len(runner.val_dataloader),
        checkpoint=done - now,
        checkpoints=epochs // interval + 2 if interval > 0 else 0,  # and the best, and its update
    ), done - begin


def _time_training(runner: MultiTaskRunner) -> float:
    """Seconds of a training step, over some seconds and steps at least."""
    runner.model.train()
    begin, timed = 0.0, -_WARM_UP
    while timed < _STEPS or time.perf_counter() - begin < _AT_LEAST_S:
        for batch in runner.train_dataloader:
            if timed == 0:
                begin = time.perf_counter()
            runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
            timed += 1
            if timed >= _STEPS and time.perf_counter() - begin >= _AT_LEAST_S:
                break
    return (time.perf_counter() - begin) / timed


def _time_validation(runner: MultiTaskRunner) -> float:
    """Seconds of a batch of a validation; the first of several, which starts workers, left out."""
    runner.model.eval()
    stamps = [time.perf_counter()]
    for batch in islice(runner.val_dataloader, 1 + _VAL_BATCHES):
        samples = runner.model.val_step(batch)
        runner.val_evaluator.process(data_samples=samples, data_batch=batch)
        stamps.append(time.perf_counter())
    if len(stamps) > 2:
        del stamps[0]
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def measure(
    runs: Sequence[Run], options: Sequence[str], slots: int, console: Console, folder: Path
) -> dict[str, Trial]:
    """Try out every model of these runs once, so many at a time as they will run.

    Args:
        runs: the runs to come.
        options: ``KEY=VALUE``, of the user.
        slots: how many run at a time.
        console: where progress is shown.
        folder: where the trials' logs and results go.

    Returns:
        :attr:`Run.model_name` -> what was measured.

    Raises:
        InputError: if one fails, with the end of what it printed.
    """
    jobs = {}
    for run in runs:
        log = folder / f"{run.model_name}.log"
        command = [sys.executable, "-m", __name__, *run.config_arguments(options)]
        command += ["--out", str(log.with_suffix(".json"))]
        jobs.setdefault(run.model_name, Job(f"trial of {run.model_name}", command, log))
    if not run_jobs(list(jobs.values()), slots, console):
        raise InputError("the trials were interrupted; nothing has been trained")
    trials = {}
    for name, job in jobs.items():
        if job.code:
            raise InputError(f"the {job.name} failed, see {job.log}:\n{job.tail()}")
        result = json.loads(job.log.with_suffix(".json").read_text())
        trials[name] = Trial(**result["trial"], start=max(0.0, job.seconds - result["measuring"]))
    return trials


def project(runs: Sequence[Run], trials: Mapping[str, Trial], slots: int) -> float:
    """Seconds until all runs are done, so many at a time, started in their order."""
    free = [0.0] * slots
    for run in runs:
        heapq.heapreplace(free, free[0] + trials[run.model_name].seconds)
    return max(free)


def check_budget(
    runs: Sequence[Run],
    trials: Mapping[str, Trial],
    slots: int,
    minutes: float,
    console: Console,
) -> None:
    """Print how long the runs will take; refuse what does not fit.

    Args:
        runs: the runs to come; one that was interrupted counts as a whole one.
        trials: what :func:`measure` gives.
        slots: how many run at a time.
        minutes: the time there is.
        console: where the projection is printed.

    Raises:
        InputError: if it takes longer than there is time.
    """
    name = Column("model", overflow="fold")
    table = Table(name, "start", "step", "steps", "one run", "runs", title="projection")
    for name, trial in trials.items():
        count = sum(run.model_name == name for run in runs)
        step = f"{trial.step:.3g} s"
        table.add_row(
            name, duration(trial.start), step, str(trial.steps), duration(trial.seconds), str(count)
        )
    console.print(table)
    total = project(runs, trials, slots)
    console.print(
        f"{len(runs)} run(s), {slots} at a time: about {duration(total)} of {minutes:g} min",
        highlight=False,
    )
    if total > 60 * minutes:
        raise InputError(
            f"the plan takes about {duration(total)}, the budget is {minutes:g} min; give fewer "
            "configs or seeds, a shorter training, or a larger --budget"
        )


def main() -> None:
    """Try out one config, write what was measured."""
    parser = ToolParser(description=__doc__)
    add_config_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    with friendly_errors():
        trial, measuring = try_out(load_config(args.config, args.cfg_options))
        result = asdict(trial)
        del result["start"]  # known from outside alone
        write_json(args.out, dict(trial=result, measuring=measuring))


if __name__ == "__main__":
    main()
