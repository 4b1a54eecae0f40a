"""Shared command-line arguments of the tools."""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

from vmt_mm.apis.inference import is_adapter
from vmt_mm.apis.inferencer import MultiTaskInferencer
from vmt_mm.cli.launch import LAUNCHERS
from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser

_OPTIONS = dict(nargs="+", action=DictAction, help="KEY=VALUE, merged into the config")


def add_config_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add ``config``, or ``configs`` if ``several``, and ``--cfg-options``."""
    if several:
        parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files")
    else:
        parser.add_argument("config", help="config file")
    parser.add_argument("--cfg-options", **_OPTIONS)


def add_model_arguments(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the options that :func:`build_inferencer` reads; ``default`` is the default config."""
    optional = {} if default is None else dict(nargs="?", default=default)
    parser.add_argument("config", help="config file, or an adapter file (.safetensors)", **optional)
    parser.add_argument("checkpoint", nargs="?", help="checkpoint file of the config")
    parser.add_argument("--device", help="cpu, cuda:0, ...; default: the best available")
    parser.add_argument("--cfg-options", **_OPTIONS)
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="run only these tasks")


def add_exif_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--turn-by-exif``; by default the config decides."""
    parser.add_argument("--turn-by-exif", action="store_true", default=None, help="rotate by EXIF")


def check_model_arguments(args: argparse.Namespace) -> None:
    """Raise InputError if there is a config without a checkpoint."""
    if args.checkpoint is None and not is_adapter(args.config):
        raise InputError(f"{args.config}: a config needs a checkpoint; an adapter file does not")


def build_inferencer(
    args: argparse.Namespace, show_progress: bool = True, turn_by_exif: bool | None = None
) -> MultiTaskInferencer:
    """Build an inferencer from the arguments of :func:`add_model_arguments`."""
    check_model_arguments(args)
    return MultiTaskInferencer(
        args.config, args.checkpoint, args.device, args.cfg_options, show_progress, turn_by_exif
    )


def check_display() -> None:
    """Raise InputError if no window can be opened; OpenCV would kill the process."""
    displays = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not displays:
        raise InputError("no display to open a window on: write to a file instead")


def run_parser(description: str) -> ToolParser:
    """Return a parser for training and test runs: config, options, work dir and launcher."""
    parser = ToolParser(description=description)
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="folder for logs and results")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser


def load_run_config(args: argparse.Namespace, world_size: int, training: bool) -> Config:
    """Load the config of :func:`run_parser` and set its launcher and work dir."""
    cfg = load_config(args.config, args.cfg_options, world_size, training)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(args.config).stem}"
    return cfg
