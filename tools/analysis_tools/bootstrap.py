"""Confidence interval of a difference in a metric, by bootstrap over the test images.

python tools/test.py CONFIG CHECKPOINT --out FOLDER     # once per training of both methods
python tools/analysis_tools/bootstrap.py CONFIG --task semseg --first FOLDER... --second FOLDER...
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

from vmt_mm.analysis.bootstrap import compare, measure_files
from vmt_mm.apis import load_config
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.tree import files_read
from vmt_mm.errors import InputError
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_json


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("--task", default="semseg", help="a task of the config")
    parser.add_argument("--metric", help="one of its results; default: the primary one")
    for name, which in (("--first", "one method"), ("--second", "the other method")):
        parser.add_argument(name, type=Path, nargs="+", required=True, metavar="FOLDER",
                            help=f"predictions of each training run of {which}")  # fmt: skip
    parser.add_argument("--min-images", type=int, default=1,
                        help="segmentation: ignore classes that occur in fewer images")  # fmt: skip
    parser.add_argument("--samples", type=int, default=10_000, help="number of resamples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the resamples")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Measure every image, resample images, print the interval."""
    cfg = load_config(args.config, args.cfg_options, training=False)
    task = build_tasks(cfg.model.tasks).get(args.task)
    if task is None or not task.primary_metric:
        raise InputError(f"--task must be a task of {args.config} with a metric, got {args.task!r}")
    for name, value in (("--samples", args.samples), ("--min-images", args.min_images)):
        if value < 1:
            raise InputError(f"{name} must be 1 or more, got {value}")
    labels = Path(cfg.test_dataloader.dataset.data_root) / task.label.folder
    folders = [*args.first, *args.second]
    check_outputs({"--json": args.json}, [*(f / task.name for f in folders), *files_read(cfg)])
    counts = [
        measure_files(task, labels, folder / task.name)
        for folder in track(folders, "measuring images", console=Console(stderr=True))
    ]
    own = len(args.first)
    methods = (counts[:own], counts[own:])
    result = compare(task, methods, args.metric, args.min_images, args.samples, args.seed)
    text = "{first:.4g} - {second:.4g} = {value:+.3g}, 95 % interval {low:+.3g} to {high:+.3g}"
    classes = result.get("classes")
    which = f"{len(classes)} classes in {args.min_images} or more of " if classes else ""
    about = f"{task.name}/{result['metric']}, {which}{result['images']} images"
    print(f"{about}: {text.format(**result)}")
    if args.json:
        write_json(args.json, result)


def main() -> None:
    """Run; print input errors as one line."""
    args = parse_args()
    with friendly_errors():
        run(args)


if __name__ == "__main__":
    main()
