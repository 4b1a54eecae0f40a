"""Evaluate a checkpoint: `python tools/test.py CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.runner import Runner
from rich.console import Console

from vmt_mm.analysis import metrics_table
from vmt_mm.apis import check_inputs, distributed, friendly_errors, load_config
from vmt_mm.apis.launch import LAUNCHERS
from vmt_mm.errors import InputError
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import write_json


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("--work-dir", help="folder for metrics.json and logs")
    parser.add_argument("--out", help="folder to write every prediction to, one folder a task")
    parser.add_argument("--show-dir", help="folder to write a panel of every image to")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE, merged into the config"
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)
    return parser.parse_args()


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the command line into the config."""
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
    if not Path(args.checkpoint).is_file():
        raise InputError(f"{args.checkpoint}: no such checkpoint")
    cfg.load_from = args.checkpoint
    if args.show_dir:
        cfg.default_hooks.visualization.show_dir = args.show_dir
    if args.out:
        writer = dict(type="PredictionWriterHook", out_dir=args.out)
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), writer]


def main() -> None:
    """Evaluate, print a table, write metrics.json."""
    args = parse_args()
    with friendly_errors(), distributed(args.launcher) as world_size:
        cfg = load_config(args.config, args.cfg_options, world_size)
        apply_args(cfg, args)
        check_inputs(cfg, training=False)
        runner = Runner.from_cfg(cfg)
        metrics = runner.test()
        if runner.rank == 0:
            path = Path(runner.work_dir) / "metrics.json"
            write_json(path, metrics)
            console = Console()
            console.print(metrics_table(metrics, build_tasks(cfg.model.tasks)))
            console.print(f"metrics: {path}", soft_wrap=True)
            for name, folder in (("predictions", args.out), ("panels", args.show_dir)):
                if folder:
                    console.print(f"{name}: {folder}", soft_wrap=True)


if __name__ == "__main__":
    main()
