"""Render the Shapes dataset: small furnished rooms with exact labels of several tasks."""

from __future__ import annotations

import sys
from pathlib import Path

from vmt_mm.rendering import write_dataset
from vmt_mm.utils.console import ToolParser


def main() -> int:
    """Render the dataset; return the exit status."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("out", type=Path, help="output folder; must be empty or not exist")
    parser.add_argument("--train", type=int, default=400, help="training scenes")
    parser.add_argument("--val", type=int, default=100, help="validation scenes")
    parser.add_argument("--size", type=int, default=192, help="side length of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes")
    args = parser.parse_args()
    if min(args.train, args.val, args.seed) < 0 or args.size < 1:
        parser.error("--train, --val and --seed must not be negative and --size must be positive")
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        parser.error(f"{args.out} exists and is not an empty folder")
    write_dataset(args.out, args.train, args.val, args.size, args.seed, args.workers)
    print(f"wrote {args.train} training and {args.val} validation scenes to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
