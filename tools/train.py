"""Train a model: `python tools/train.py configs/vmt/vmt_swin-nano_shapes.py`."""

from __future__ import annotations

import argparse
import os

import torch
from mmengine.config import Config

from vmt_mm.cli.arguments import load_run_config, run_parser
from vmt_mm.cli.launch import distributed
from vmt_mm.config.inputs import check_inputs
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.errors import InputError


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = run_parser(__doc__)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="resume from this checkpoint, or from the newest intact one in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="train in bfloat16")
    parser.add_argument("--seed", type=int, help="random seed")
    parser.add_argument("--deterministic", action="store_true", help="reproducible losses; slower")
    return parser.parse_args()


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the command line into the config."""
    cfg.randomness = dict(cfg.get("randomness", {}))
    if args.seed is not None:
        cfg.randomness["seed"] = args.seed
    if args.deterministic:
        cfg.randomness["deterministic"] = True
    if cfg.randomness.get("deterministic"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
    if args.amp:
        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported():
            raise InputError("--amp: this GPU does not support bfloat16; train without --amp")
        cfg.optim_wrapper.type = "BFloat16OptimWrapper"


def train(args: argparse.Namespace, world_size: int) -> None:
    """Train."""
    cfg = load_run_config(args, world_size, training=True)
    apply_args(cfg, args)
    check_inputs(cfg, training=True)
    MultiTaskRunner.from_cfg(cfg).train()


def main() -> None:
    """Train, in one or several processes."""
    args = parse_args()
    with distributed(args.launcher) as world_size:
        train(args, world_size)


if __name__ == "__main__":
    main()
