"""Train a model: `python tools/train.py configs/vmt/vmt_swin-nano_shapes.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from vmt_mm.apis import (
    add_config_arguments,
    add_run_arguments,
    apply_run_arguments,
    check_inputs,
    distributed,
    friendly_errors,
    load_config,
)
from vmt_mm.errors import InputError


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from this checkpoint, or from the newest one in the work dir",
    )
    parser.add_argument("--amp", action="store_true", help="train in bfloat16 on a GPU")
    parser.add_argument("--seed", type=int, help="seed of everything random")
    return parser.parse_args()


def apply_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the command line into the config."""
    apply_run_arguments(cfg, args)
    if args.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": args.seed}
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == "auto" else args.resume
        if cfg.load_from and not Path(cfg.load_from).is_file():
            raise InputError(f"--resume {cfg.load_from}: no such checkpoint")
    if args.amp:
        if not torch.cuda.is_available():
            raise InputError("--amp needs a GPU, and none is available; train without it")
        if not torch.cuda.is_bf16_supported():
            raise InputError("--amp needs a GPU that computes in bfloat16; train without it")
        cfg.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=1.0)


def main() -> None:
    """Train."""
    args = parse_args()
    with friendly_errors(), distributed(args.launcher) as world_size:
        cfg = load_config(args.config, args.cfg_options, world_size)
        apply_args(cfg, args)
        check_inputs(cfg, training=True)
        runner = Runner.from_cfg(cfg)
        loader = runner.train_dataloader
        if not len(loader):
            raise InputError(
                f"{len(loader.dataset)} training image(s) give no batch of "
                f"{cfg.train_dataloader.batch_size} per process; set a smaller total_batch_size"
            )
        runner.train()


if __name__ == "__main__":
    main()
