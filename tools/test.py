"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from vmt_mm.analysis.tables import metrics_table
from vmt_mm.apis import apply_tta
from vmt_mm.cli.arguments import load_run_config, run_parser
from vmt_mm.cli.launch import distributed
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.tree import files_read
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.errors import InputError
from vmt_mm.structures.predictions import check_predictions
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import check_folder_target, check_outputs, write_json


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = run_parser(__doc__)
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--out", help="write all predictions to OUT/<task>/")
    parser.add_argument("--show-dir", help="write a panel of each image to this folder")
    parser.add_argument(
        "--maps-only", action="store_true", help="panels without the image, for private images"
    )
    parser.add_argument(
        "--tta", action="store_true", help="average over resized and flipped images"
    )
    return parser.parse_args()


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the command line into the config."""
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.maps_only and not args.show_dir:
        raise InputError("--maps-only needs --show-dir, the folder for panels")
    for name, folder in (("--out", args.out), ("--show-dir", args.show_dir)):
        if folder:
            check_folder_target(Path(folder), name)
    hooks = list(cfg.get("custom_hooks", []))
    if args.show_dir:
        panels = dict(show_dir=args.show_dir, draw_image=not args.maps_only)
        hooks.append(dict(type="MultiTaskVisualizationHook", **panels))
    if args.out:
        hooks.append(dict(type="PredictionWriterHook", out_dir=args.out))
    cfg.custom_hooks = hooks


def check_targets(cfg: Config, args: argparse.Namespace) -> None:
    """Raise InputError if an output folder contains inputs."""
    if args.out:
        check_predictions(args.out, cfg.model.tasks, files_read(cfg), "--out")
    check_outputs({"--show-dir": args.show_dir}, files_read(cfg))


def evaluate(args: argparse.Namespace, world_size: int) -> None:
    """Evaluate, print a table, write metrics.json."""
    cfg = load_run_config(args, world_size, training=False)
    apply_args(cfg, args)
    check_inputs(cfg, training=False)
    check_targets(cfg, args)
    tasks = build_tasks(cfg.model.tasks)
    if args.tta:
        apply_tta(cfg)
    runner = MultiTaskRunner.from_cfg(cfg)
    metrics = runner.test()
    if runner.rank == 0:
        path = Path(runner.work_dir) / "metrics.json"
        write_json(path, metrics)
        console = Console()
        console.print(metrics_table(metrics, tasks))
        console.print(f"metrics: {path}", soft_wrap=True)
        for name, folder in (("predictions", args.out), ("panels", args.show_dir)):
            if folder:
                console.print(f"{name}: {folder}", soft_wrap=True)


def main() -> None:
    """Evaluate, in one or several processes."""
    args = parse_args()
    with distributed(args.launcher) as world_size:
        evaluate(args, world_size)


if __name__ == "__main__":
    main()
