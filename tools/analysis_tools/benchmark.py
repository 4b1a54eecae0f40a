"""Time encoders by number of tasks: `python tools/analysis_tools/benchmark.py CONFIG...`.

Every config's model is built with 1, 2, 4 and 8 tasks (`--tasks`) and random weights; they run in
turn, round after round, so that a slow phase of the machine hits all of them alike. `--mode infer`
times encoder, heads and predictions, `--mode train` a step of training. No weights or data are
needed.

python tools/analysis_tools/benchmark.py configs/vmt/vmt_swin-t_pascal.py \
    configs/baselines/multiple_adapter_swin-t_pascal.py --out work_dirs/cost.png
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from pathlib import Path

import cv2
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vmt_mm.analysis.cost import MODES, Cost, build_case, calls_of_each, measure
from vmt_mm.analysis.cost_report import cost_table, draw_costs
from vmt_mm.analysis.models import load_experiments
from vmt_mm.analysis.tables import print_table
from vmt_mm.apis import add_config_arguments, friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.utils.files import write_image, write_json


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser, several=True)
    parser.add_argument(
        "--tasks", nargs="+", type=int, default=[1, 2, 4, 8], help="numbers of tasks"
    )
    parser.add_argument("--mode", choices=tuple(MODES), default="encoder", help="what is timed")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="of the images; the config's if unset"
    )
    parser.add_argument("--batch", type=int, default=1, help="images a run")
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of each")
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's choice if unset")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE.json", help="write JSON, or print it"
    )
    parser.add_argument("--out", type=Path, metavar="PICTURE", help="picture to write (.png, ...)")
    return parser.parse_args()


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse, before anything is timed, files that could not be written at the end."""
    # a config that follows --json must not be taken for the file
    if args.json not in (None, "-") and Path(args.json).suffix != ".json":
        raise InputError(f"--json {args.json}: the file's name must end with .json")
    if args.out and not (args.out.suffix and cv2.haveImageWriter(str(args.out))):
        raise InputError(f"--out {args.out}: no image format is known by this suffix; take .png")
    for option, path in (("--json", args.json), ("--out", args.out)):
        if path in (None, "-"):
            continue
        nearest = next(parent for parent in Path(path).absolute().parents if parent.exists())
        if Path(path).is_dir() or not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise InputError(f"{option} {path}: no file can be written there")


def time_costs(args: argparse.Namespace) -> list[Cost]:
    """Build everything, then time it."""
    experiments = load_experiments(args.configs, args.cfg_options)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        pairs = [(e, tasks) for e in experiments for tasks in sorted(set(args.tasks))]
        cases = [
            build_case(experiment, tasks, args.mode, args.batch, args.size)
            for experiment, tasks in progress.track(pairs, description="building")
        ]
        bar = progress.add_task("timing", total=len(cases) * calls_of_each(args.repeats))
        return measure(cases, args.repeats, advance=lambda: progress.advance(bar))


def main() -> None:
    """Time, and report."""
    args = parse_args()
    with friendly_errors():
        check_outputs(args)
        if args.threads is not None:
            if args.threads < 1:
                raise InputError(f"--threads must be 1 or more, got {args.threads}")
            torch.set_num_threads(args.threads)
        # what libraries say while they build must not stand among the JSON
        with contextlib.redirect_stdout(sys.stderr):
            costs = time_costs(args)
        records = [cost.record() for cost in costs]
        if args.json == "-":
            print(json.dumps(records, indent=2))
        else:
            print_table(cost_table(costs))
        if args.json not in (None, "-"):
            write_json(Path(args.json), records)
            print(f"json: {args.json}")
        if args.out:
            write_image(args.out, draw_costs(costs))
            print(f"picture: {args.out}", file=sys.stderr if args.json == "-" else sys.stdout)


if __name__ == "__main__":
    main()
