"""Train configs with several seeds and compare them: a table and a picture.

python tools/analysis_tools/compare.py CONFIG... --work-dir work_dirs/comparison --seeds 0 1 2

Writes comparison.md (as the paper's Table 2), comparison.png (as its Fig. 1) and comparison.json.
A config that trains one task alone (a top-level `task`) stands for one model a task and is what
Delta compares with. The same command again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import DictAction
from rich.console import Console

from vmt_mm.analysis.comparison import choose_reference, compare, cost_of, to_markdown
from vmt_mm.analysis.comparison_plot import draw_comparison
from vmt_mm.analysis.jobs import Job, run_jobs
from vmt_mm.analysis.runs import LOG, Entry, Run, plan_runs, read_entry
from vmt_mm.analysis.trial import check_budget, measure
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.files import files_read
from vmt_mm.config.inputs import check_inputs
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_bytes, write_image, write_json

_TRAIN = Path(__file__).parents[1] / "train.py"
_INTERRUPTED = 130


class _Options(DictAction):
    """Parses ``KEY=VALUE``, and keeps the words for the trainings' command lines."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.option_words = [*namespace.option_words, *values]


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    parser.add_argument("--work-dir", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="how many trainings run at a time")
    parser.add_argument("--budget", type=float, metavar="MIN", help="measure first; refuse a plan "
                        "that takes longer than this")  # fmt: skip
    parser.add_argument("--reference", metavar="CONFIG", help="what Delta compares with")
    parser.add_argument("--out", type=Path, help="folder of table and picture; default: work dir")
    parser.add_argument("--title", nargs="+", default=[], metavar="STEM=TEXT",
                        help="what to call a config, by its file's name")  # fmt: skip
    parser.add_argument("--collect", action="store_true", help="train nothing")
    parser.add_argument("--cfg-options", nargs="+", action=_Options, default={},
                        metavar="KEY=VALUE", help="merged into every config")  # fmt: skip
    parser.set_defaults(option_words=[])
    return parser.parse_args()


def read_entries(args: argparse.Namespace) -> list[Entry]:
    """Read every config, the reference's included."""
    paths = dict.fromkeys([*args.configs, *([args.reference] if args.reference else [])])
    titles = dict(pair.partition("=")[::2] for pair in args.title)
    if unknown := sorted(set(titles) - {Path(path).stem for path in paths}):
        raise InputError(f"--title {unknown[0]}: no config is named so")
    if args.jobs < 1:
        raise InputError(f"--jobs must be a positive whole number, got {args.jobs}")
    return [read_entry(path, args.cfg_options, titles.get(Path(path).stem)) for path in paths]


def train(runs: Sequence[Run], args: argparse.Namespace, console: Console) -> bool:
    """Train what is not finished; return False if a signal ended it.

    Raises:
        InputError: if data or weights are missing, or the time does not suffice.
    """
    waiting = {run.name: run for run in runs if run.metrics() is None}
    if len(waiting) < len(runs):
        console.print(f"{len(runs) - len(waiting)} of {len(runs)} run(s) are finished already")
    if not waiting:
        return True
    for run in {run.model_name: run for run in waiting.values()}.values():
        check_inputs(run.entry.configs[run.task], training=True)
    words = args.option_words
    if args.budget is not None:
        folder = args.work_dir / "trials"
        trials = measure(list(waiting.values()), words, args.jobs, console, folder)
        check_budget(list(waiting.values()), trials, args.jobs, args.budget, console)

    def say(text: str) -> None:
        console.print(text, style="red", highlight=False, markup=False, soft_wrap=True)

    def on_end(job: Job) -> None:
        run, code = waiting[job.name], None if job.stopped else job.code
        if code == 0 and not run.is_still(args.cfg_options):
            run.note_end(None, job.seconds)
            say(f"{job.name} does not count: {run.entry.experiment.path} changed while it trained")
        elif not run.note_end(code, job.seconds) and not job.stopped:
            what = "failed" if code else "ended without a validation"
            say(f"{job.name} {what}; the end of {job.log}:\n{job.tail()}")

    jobs = [
        Job(name, run.command(_TRAIN, words), run.folder / LOG, run.progress)
        for name, run in waiting.items()
    ]
    return run_jobs(jobs, args.jobs, console, lambda job: waiting[job.name].note_start(), on_end)


def write(comparison: dict[str, Any], folder: Path, console: Console) -> None:
    """Write table, picture and numbers, and print the table."""
    table = to_markdown(comparison)
    write_bytes(folder / "comparison.md", table.encode())
    write_json(folder / "comparison.json", comparison)
    picture = draw_comparison(comparison)
    if picture is None:
        (folder / "comparison.png").unlink(missing_ok=True)  # of other runs
    else:
        write_image(folder / "comparison.png", picture)
    console.print(table, highlight=False, markup=False, soft_wrap=True)
    names = "comparison.md, comparison.json" + ("" if picture is None else ", comparison.png")
    console.print(f"written into {folder}: {names}", soft_wrap=True)


def main() -> None:
    """Train, compare; exit with 1 if anything is missing, with 130 after Ctrl-C."""
    args, console = parse_args(), Console()
    with friendly_errors():
        entries = read_entries(args)
        reference = choose_reference(entries, args.reference)
        runs = plan_runs(entries, list(dict.fromkeys(args.seeds)), args.work_dir)
        for entry in entries:
            folders = {"--work-dir": args.work_dir, "--out": args.out}
            check_outputs(folders, files_read(entry.experiment.cfg), may_hold=True)
        costs = {entry.name: cost_of(entry) for entry in entries}
        whole = args.collect or train(runs, args, console)
        command = shlex.join(["python", *sys.argv])
        comparison = compare(entries, runs, reference, costs, command)
        write(comparison, args.out or args.work_dir, console)
    if not whole:
        console.print("interrupted; the same command goes on where it was stopped")
        sys.exit(_INTERRUPTED)
    sys.exit(1 if any(row["missing"] for row in comparison["rows"]) and not args.collect else 0)


if __name__ == "__main__":
    main()
