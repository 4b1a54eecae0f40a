"""What the tools' command lines share."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction

from vmt_mm.apis.launch import LAUNCHERS


def add_config_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add ``config``, or ``configs`` where ``several`` are taken, and ``--cfg-options``."""
    if several:
        parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    else:
        parser.add_argument("config", help="config file")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE, merged into the config"
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir`` and ``--launcher``."""
    parser.add_argument("--work-dir", help="folder for logs and results")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
    # older launchers pass it; torchrun sets the environment variable instead
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def apply_run_arguments(cfg: Config, args: argparse.Namespace) -> None:
    """Write launcher and work dir into the config."""
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
