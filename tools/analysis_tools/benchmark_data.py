"""Time the data pipeline: `python tools/analysis_tools/benchmark_data.py CONFIG`.

Three pipelines run alternately on one thread: the config's training pipeline reading files, the
same with a cache, and a plain one that transforms image and labels step by step. The cache is
temporary and contains only the timed images.

python tools/analysis_tools/benchmark_data.py configs/vmt/vmt_swin-t_pascal.py \
    --cfg-options data_root=data/pascal_mt
"""

from __future__ import annotations

import argparse
import json
import tempfile
from typing import Any

import numpy as np
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import Progress

from vmt_mm.analysis.data_speed import PlainPipeline, measure
from vmt_mm.analysis.tables import print_table, table_of
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.load import load_config
from vmt_mm.datasets import MultiTaskDataset
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument("--images", type=int, default=100, help="number of images")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--workers", type=int, default=0, help="worker processes; 0: none")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser.parse_args()


def build(args: argparse.Namespace, cache: str) -> dict[str, Any]:
    """Build the three pipelines on the same random images."""
    cfg = load_config(args.config, args.cfg_options, training=False)
    config = dict((cfg.get("train_dataloader") or {}).get("dataset") or {})
    if not config:
        raise InputError(f"{args.config}: train_dataloader.dataset is missing")
    config["cache"] = None
    init_default_scope(cfg.get("default_scope") or "vmt_mm")
    full = DATASETS.build(config)
    if not isinstance(full, MultiTaskDataset):
        raise InputError(f"{args.config}: train_dataloader.dataset must be a MultiTaskDataset")
    PlainPipeline(full)  # raises if the pipeline has no RandomWarp
    chosen = np.random.default_rng(0).permutation(len(full))[: args.images].tolist()
    files = DATASETS.build(dict(config, indices=chosen))
    cached = DATASETS.build(dict(config, indices=chosen, cache=cache))
    return {"files": files, "cache": cached, "plain": PlainPipeline(files)}


def print_speed(speed: dict[str, Any]) -> None:
    """Print a table of pipelines and a table of steps."""
    rows = [
        {
            "pipeline": name,
            "images/s": f"{own['images_per_s']:.0f}",
            "ms per image": f"{own['ms']:.2f}",
            "relative to plain": f"{speed['times_plain'].get(name, 1):.2f}",
        }
        for name, own in speed["pipelines"].items()
    ]
    print_table(table_of("data pipeline", rows))
    stages = speed["stages"]
    rows = [
        {"step, ms per image": step} | {name: f"{stages[name][step]:.2f}" for name in stages}
        for step in next(iter(stages.values()))
    ]
    print_table(table_of("time per step", rows))


def main() -> None:
    """Run the benchmark and report."""
    args = parse_args()
    with friendly_errors():
        for name in ("images", "repeats"):
            if getattr(args, name) < 1:
                raise InputError(f"--{name} must be 1 or more, got {getattr(args, name)}")
        if args.workers < 0:
            raise InputError(f"--workers must be 0 or more, got {args.workers}")
        with tempfile.TemporaryDirectory() as cache:
            pipelines = build(args, cache)
            images = len(pipelines["files"])
            with Progress(console=Console(stderr=True), transient=True) as progress:
                bar = progress.add_task("timing", total=args.repeats + 1)
                speed = measure(
                    pipelines, images, args.repeats, args.workers, lambda: progress.advance(bar)
                )
        if args.json:
            settings = dict(config=args.config, images=images, repeats=args.repeats)
            settings |= dict(workers=args.workers, size=list(pipelines["plain"].warp.size))
            print(json.dumps(settings | speed, indent=2))
        else:
            print_speed(speed)


if __name__ == "__main__":
    main()
