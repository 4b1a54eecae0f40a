"""Measure time, GFLOP and memory of models: `python tools/analysis_tools/benchmark.py CONFIG...`.

Each config's model is built with 1, 2, 4 and 8 tasks (`--tasks`) and random weights. The models run
alternately, so that a slow phase of the machine affects all of them. Mode `encoder` times the
backbone, `infer` also heads and predictions, `train` a training step. Peak memory is measured in a
separate process. No weights or data are needed.

`--reference` adds the stock composition to the same rounds: mmseg's Swin and concatenating heads
with the same adapters (`stock`), or fully fine-tuned (`stock_full`). `--ablate` measures our model
with one part of the stock composition at a time.

python tools/analysis_tools/benchmark.py configs/vmt/vmt_swin-t_pascal.py \
    configs/baselines/multiple_adapter_swin-t_pascal.py --out work_dirs/cost.png
python tools/analysis_tools/benchmark.py configs/vmt/vmt_swin-t_pascal.py --mode train --tasks 4 \
    --size 448 448 --batch 2 --reference
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vmt_mm.analysis.benchmark import (
    MODES,
    UNTIMED,
    Case,
    build_case,
    cost_table,
    draw,
    measure,
    run_alone,
)
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.analysis.mmseg_baseline import ABLATIONS, OURS, REFERENCES, logits_difference
from vmt_mm.analysis.tables import print_table
from vmt_mm.analysis.timing import matrix_product_rate, peak_memory
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.utils import files
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import (
    check_file_target,
    check_image_target,
    write_image,
    write_json,
)
from vmt_mm.utils.memory import keep_freed_memory

#: Only from the second training step on does the optimizer have a state.
_MEMORY_RUNS = 2


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser, several=True)
    parser.add_argument(
        "--tasks", nargs="+", type=int, default=[1, 2, 4, 8], help="numbers of tasks"
    )
    parser.add_argument("--mode", choices=tuple(MODES), default="encoder", help="what to time")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="image size; default: the config's"
    )
    parser.add_argument("--batch", type=int, default=1, help="images per run")
    parser.add_argument("--repeats", type=int, default=10, help="timed runs of each model")
    parser.add_argument("--amp", action="store_true", help="use bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the backbone")
    parser.add_argument("--reference", action="store_true", help="also the stock composition")
    parser.add_argument("--ablate", action="store_true", help="also with one stock part at a time")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--threads", type=int, help="CPU threads; default: PyTorch's")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE.json", help="write or print JSON"
    )
    parser.add_argument("--out", type=Path, metavar="PICTURE", help="image to write (.png, ...)")
    return parser.parse_args()


def check_outputs(args: argparse.Namespace) -> None:
    """Raise InputError, before anything is timed, if an output cannot be written."""
    own = args.json if args.json != "-" else None
    files.check_outputs({"--json": own, "--out": args.out}, args.configs)
    # a config that follows --json must not be taken for the file
    if args.json not in (None, "-"):
        if Path(args.json).suffix != ".json":
            raise InputError(f"--json must be a .json file, got {args.json}")
        check_file_target(Path(args.json), "--json")
    if args.out:
        check_image_target(args.out, "--out")


def build_cases(args: argparse.Namespace, progress: Progress) -> list[Case]:
    """Build all models; print how far the logits of the stock composition differ from ours."""
    variants = [OURS, *(REFERENCES if args.reference else ()), *(ABLATIONS if args.ablate else ())]
    own = dict(mode=args.mode, batch=args.batch, size=args.size and tuple(args.size), amp=args.amp,
               compile=args.compile)  # fmt: skip
    settings = [
        dict(own, tasks=tasks, variant=variant)
        for tasks in sorted(set(args.tasks))
        for variant in variants
    ]
    pairs = [
        (experiment, setting)
        for experiment in load_experiments(args.configs, args.cfg_options)
        for setting in settings
    ]
    cases = []
    for experiment, setting in progress.track(pairs, description="building"):
        cases.append(build_case(experiment, setting))
        if setting["variant"] == "stock":
            ours, stock = (case.models for case in cases[-2:])
            images = torch.randn(1, 3, *cases[-1].record["size"]).to(get_device())
            worst = max(logits_difference(*pair, images) for pair in zip(ours, stock, strict=True))
            print(
                f"{experiment.name}, {setting['tasks']} task(s): with the same weights, our logits "
                f"and those of the stock composition differ by {worst:.1e} of the largest",
                file=sys.stderr,
            )
    return cases


def time_cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Build the models, time them, then measure memory."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        cases = build_cases(args, progress)
        bar = progress.add_task("timing", total=len(cases) * (UNTIMED + args.repeats))
        records = measure(cases, args.repeats, advance=lambda: progress.advance(bar))
        chosen = [] if args.no_memory else records
        for record in progress.track(chosen, description="measuring memory"):
            options = args.cfg_options or {}
            record["peak_mem_bytes"] = peak_memory(run_alone, options, record, _MEMORY_RUNS)
    return records


def main() -> None:
    """Run the benchmark and report."""
    args = parse_args()
    with friendly_errors():
        check_outputs(args)
        keep_freed_memory()  # as training and test do
        if args.threads is not None:
            if args.threads < 1:
                raise InputError(f"--threads must be 1 or more, got {args.threads}")
            torch.set_num_threads(args.threads)
        # keep stdout clean for JSON: libraries print while they build models
        with contextlib.redirect_stdout(sys.stderr):
            rate = matrix_product_rate(torch.bfloat16 if args.amp else torch.float32)
            records = [{**record, "matmul_flops": rate} for record in time_cases(args)]
        if args.json == "-":
            print(json.dumps(records, indent=2))
        else:
            print_table(cost_table(records, rate))
        if args.json not in (None, "-"):
            write_json(Path(args.json), records)
            print(f"json: {args.json}")
        if args.out:
            write_image(args.out, draw(records))
            print(f"picture: {args.out}", file=sys.stderr if args.json == "-" else sys.stdout)


if __name__ == "__main__":
    main()
