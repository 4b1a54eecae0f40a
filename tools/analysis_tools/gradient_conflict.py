"""Measure conflicts between the gradients of tasks during training (Fig. 4 of the paper).

python tools/analysis_tools/gradient_conflict.py \
    configs/baselines/shared_adapter_swin-nano_shapes.py configs/vmt/vmt_swin-nano_shapes.py

Trains each config without validation and checkpoints, and records the cosine between the gradients
of every two tasks with respect to the shared parameters. Instead of a config, you can pass a
`gradient_conflict.json` that GradientConflictHook wrote in another run.
"""

from __future__ import annotations

import argparse
import copy
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vmt_mm.analysis.gradient_conflict import (
    RECORD_FILE,
    GradientConflictHook,
    Record,
    conflict_table,
    draw_conflicts,
    find_candidates,
    measure_conflict,
    read_record,
    summarize,
    task_losses,
    write_record,
)
from vmt_mm.analysis.tables import print_table
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.load import load_config
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_image, write_json


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser, several=True)
    parser.add_argument(
        "--checkpoint", nargs="+", default=[], help="initial weights, one file per config"
    )
    parser.add_argument(
        "--iters", type=int, help="stop after this many iterations; default: the full schedule"
    )
    parser.add_argument("--interval", type=int, default=1, help="iterations between measurements")
    parser.add_argument(
        "--parameters",
        help="regular expression that selects shared parameters by name",
    )
    parser.add_argument(
        "--work-dir", type=Path, default=Path("work_dirs/gradient_conflict"), help="results"
    )
    parser.add_argument("--seed", type=int, help="random seed of all runs")
    return parser.parse_args()


class Enough(Exception):  # noqa: N818
    """The requested number of iterations is reached."""


class Progressing(Hook):
    """Show the progress of a training run, and stop it after ``iters`` iterations.

    A shorter schedule would not be equivalent: its learning rate decays faster.
    """

    priority = "VERY_LOW"

    def __init__(self, bar: Progress, label: str, iters: int | None) -> None:
        self.bar, self.label, self.iters = bar, label, iters

    def before_train(self, runner: Runner) -> None:
        """Start the bar."""
        total = min(self.iters or runner.max_iters, runner.max_iters)
        self.task = self.bar.add_task(self.label, total=total)

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Advance the bar; stop training after ``iters`` iterations."""
        self.bar.advance(self.task)
        if runner.iter + 1 == self.iters:
            raise Enough


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError if arguments do not match."""
    configs = [path for path in args.configs if not _is_record(path)]
    if args.checkpoint and len(args.checkpoint) != len(configs):
        raise InputError(
            f"--checkpoint needs one file per config, in the same order: got "
            f"{len(args.checkpoint)} for {len(configs)} config(s)"
        )
    for name in ("iters", "interval"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be a positive integer, got {value}")
    if args.iters and args.iters < args.interval:
        raise InputError(f"--iters must be at least --interval, {args.interval}, got {args.iters}")


def make_config(path: str, label: str, checkpoint: str | None, args: argparse.Namespace) -> Config:
    """The config of a training run without validation and checkpoints."""
    cfg = load_config(path, args.cfg_options)
    cfg.work_dir = str(args.work_dir / label)
    cfg.experiment_name = label
    cfg.load_from, cfg.resume = checkpoint or cfg.get("load_from"), False
    cfg.log_level = "WARNING"  # the progress bar is enough
    check_inputs(cfg, training=True)
    check_sharing(cfg, args.parameters)
    if args.seed is not None:
        cfg.randomness = dict(cfg.get("randomness", {}), seed=args.seed)
    for part in ("dataloader", "cfg", "evaluator"):
        cfg[f"val_{part}"] = cfg[f"test_{part}"] = None
    hooks = cfg.setdefault("default_hooks", {})
    hooks["checkpoint"] = None
    hooks.pop("graceful_stop", None)  # nothing to resume from without checkpoints
    return cfg


def check_sharing(cfg: Config, parameters: str | None) -> None:
    """Raise InputError if the tasks of a config's model share no parameter.

    Losses without labels are 0 but reach the same parameters.
    """
    init_default_scope(cfg.get("default_scope", "vmt_mm"))
    model = MODELS.build(copy.deepcopy(cfg.model)).train()
    losses = task_losses(model, torch.zeros(1, 3, 64, 64), [MultiTaskDataSample()])
    measure_conflict(losses, find_candidates(model, parameters))


def measure(cfg: Config, args: argparse.Namespace, bar: Progress, label: str) -> Record:
    """Train, and return the record of the hook."""
    runner = MultiTaskRunner.from_cfg(cfg)
    hook = GradientConflictHook(args.interval, args.parameters)
    runner.register_hook(hook)
    runner.register_hook(Progressing(bar, label, args.iters))
    with suppress(Enough):
        runner.train()
    write_record(Path(runner.work_dir) / RECORD_FILE, hook.record)
    return hook.record


def labels_of(paths: list[str]) -> list[str]:
    """Return short names: the file's of a config, the folder's of a record; numbered if equal."""
    stems = [Path(p).resolve().parent.name if _is_record(p) else Path(p).stem for p in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}_{stems[: index + 1].count(stem)}"
        for index, stem in enumerate(stems)
    ]


def _is_record(path: str) -> bool:
    return Path(path).suffix == ".json"


def compare(args: argparse.Namespace) -> None:
    """Measure every config, then write and print the comparison."""
    check_args(args)
    labels, checkpoints = labels_of(args.configs), iter(args.checkpoint)
    # check all configs before the first training
    jobs = {
        label: read_record(Path(path))
        if _is_record(path)
        else make_config(path, label, next(checkpoints, None), args)
        for label, path in zip(labels, args.configs, strict=True)
    }
    check_outputs({"--work-dir": args.work_dir / RECORD_FILE}, args.configs)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        records = {
            label: job if isinstance(job, dict) else measure(job, args, bar, label)
            for label, job in jobs.items()
        }
    write_json(
        args.work_dir / RECORD_FILE,
        {label: {**r, "summary": summarize(r)} for label, r in records.items()},
    )
    picture = (args.work_dir / RECORD_FILE).with_suffix(".png")
    write_image(picture, draw_conflicts(records))
    print_table(conflict_table(records))
    print(f"all cosines: {args.work_dir / RECORD_FILE}\npicture: {picture}")


def main() -> None:
    """Run the comparison."""
    args = parse_args()
    with friendly_errors():
        compare(args)


if __name__ == "__main__":
    main()
