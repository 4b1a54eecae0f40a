"""Train configs with several seeds and compare them in a table and a plot.

python tools/analysis_tools/compare.py CONFIG... --work-dir work_dirs/comparison --seeds 0 1 2

Writes comparison.md (like the paper's Table 2), comparison.png (like its Fig. 1) and
comparison.json. A config with a top-level `task` represents one model per task and is the reference
of Delta. After an interruption, the same command continues. With `--cfg-options
train_cfg.val_interval=1`, progress.png shows the scores of every epoch over the time of training.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from mmengine.config import DictAction
from rich.console import Console

from vmt_mm.analysis.comparison import (
    LOG,
    Run,
    choose_reference,
    compare,
    draw_comparison,
    draw_progress,
    plan_runs,
    to_markdown,
    train_runs,
)
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.tree import files_read
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_bytes, write_image, write_json

_TRAIN = Path(__file__).parents[1] / "train.py"
_INTERRUPTED = 130


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of the training runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="training runs at the same time")
    parser.add_argument("--reference", metavar="CONFIG", help="reference of Delta")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="TASK/METRIC",
                        help="further columns, such as depth/abs_rel")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for table and plot; default: work dir")
    parser.add_argument("--title", nargs="+", default=[], metavar="STEM=TEXT",
                        help="title of a config, by its file name without suffix")  # fmt: skip
    parser.add_argument("--collect", action="store_true", help="only collect finished runs")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE",
                        help="merged into every config")  # fmt: skip
    return parser.parse_args()


def train(runs: Sequence[Run], args: argparse.Namespace, console: Console) -> None:
    """Check data and weights, then train the runs that are not finished."""
    waiting = [run for run in runs if "metrics" not in run.read()]
    if len(waiting) < len(runs):
        console.print(f"{len(runs) - len(waiting)} of {len(runs)} run(s) already finished")
    for run in {run.folder.parent: run for run in waiting}.values():
        check_inputs(run.cfg, training=True)
    ended = []

    def on_end(run: Run) -> None:
        ended.append(run)
        record = run.read()
        outcome = f"done in {record['seconds']:.0f} s"
        if "metrics" not in record:
            tail = (run.folder / LOG).read_text(errors="replace").splitlines()[-15:]
            outcome = "\n".join([f"failed; last lines of {run.folder / LOG}:", *tail])
        text = f"{len(ended)} of {len(waiting)}: {run.name} {outcome}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    args.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.work_dir / ".lock", timeout=0):
            commands = [run.command(_TRAIN, args.cfg_options) for run in waiting]
            train_runs(waiting, commands, args.jobs, on_end)
    except Timeout:
        raise InputError(f"--work-dir {args.work_dir} is in use by another comparison") from None


def main() -> None:
    """Train and compare; exit with 1 if a run is missing, with 130 after Ctrl-C."""
    args, console = parse_args(), Console()
    interrupted = False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # same as Ctrl-C
    with friendly_errors():
        if args.jobs < 1:
            raise InputError(f"--jobs must be a positive integer, got {args.jobs}")
        paths = list(dict.fromkeys([*args.configs, *([args.reference] if args.reference else [])]))
        titles = dict(pair.partition("=")[::2] for pair in args.title)
        stems = sorted({Path(path).stem for path in paths})
        if unknown := sorted(set(titles) - set(stems)):
            rule = f"expected a file name without suffix, one of {', '.join(stems)}"
            raise InputError(f"--title: {rule}, got {unknown[0]!r}")
        options, folder = parse_options(args.cfg_options), args.out or args.work_dir
        runs = plan_runs(paths, options, list(dict.fromkeys(args.seeds)), args.work_dir)
        reference = choose_reference(runs, args.reference)
        for run in runs:
            folders = {"--work-dir": args.work_dir, "--out": folder}
            check_outputs(folders, files_read(run.cfg), may_hold=True)
        try:
            if not args.collect:
                train(runs, args, console)
        except KeyboardInterrupt:
            interrupted = True
        command = shlex.join(["python", *sys.argv])
        comparison = compare(runs, reference, titles, command, args.metrics)
        table = to_markdown(comparison)
        write_bytes(folder / "comparison.md", table.encode())
        write_json(folder / "comparison.json", comparison)
        write_image(folder / "comparison.png", draw_comparison(comparison))
        progress = draw_progress(comparison)
        if progress is not None:
            write_image(folder / "progress.png", progress)
        console.print(table, highlight=False, markup=False, soft_wrap=True)
        also = "" if progress is None else ", and progress.png"
        console.print(f"wrote comparison.md, .json and .png{also} to {folder}", soft_wrap=True)
    if interrupted:
        console.print("interrupted; run the same command to continue")
        sys.exit(_INTERRUPTED)
    sys.exit(1 if any(row["missing"] for row in comparison["rows"]) and not args.collect else 0)


def parse_options(words: Sequence[str]) -> dict[str, object]:
    """Parse ``KEY=VALUE`` words like ``--cfg-options`` of the other tools."""
    parser = ToolParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction, default={})
    return vars(parser.parse_args(["--cfg-options", *words]))["cfg_options"]


if __name__ == "__main__":
    main()
