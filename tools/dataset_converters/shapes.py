"""Render the Shapes data set: little furnished rooms with exact labels for several tasks."""

import argparse
import sys
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vmt_mm.rendering import write_dataset
from vmt_mm.utils.console import ToolParser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; must be empty or not exist yet")
    parser.add_argument("--train", type=int, default=400, help="training scenes")
    parser.add_argument("--val", type=int, default=100, help="validation scenes")
    parser.add_argument("--size", type=int, default=192, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed that all scenes follow from")
    parser.add_argument("--workers", type=int, default=2, help="processes to render with")
    return parser.parse_args(argv)


def problem(args: argparse.Namespace) -> str | None:
    """Return in one line what is wrong with the arguments, or None."""
    if min(args.train, args.val, args.seed) < 0 or args.size < 1:
        return "--train, --val and --seed must not be negative and --size must be positive"
    if args.out.exists() and not args.out.is_dir():
        return f"{args.out} exists and is not a folder"
    if args.out.exists() and any(args.out.iterdir()):
        return f"{args.out} exists and is not empty"
    return None


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = parse_args(argv)
    complaint = problem(args)
    if complaint:
        print(f"error: {complaint}", file=sys.stderr)
        return 2
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as bar:
        task = bar.add_task("Rendering", total=args.train + args.val)
        write_dataset(
            args.out,
            train=args.train,
            val=args.val,
            size=args.size,
            seed=args.seed,
            workers=args.workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"wrote {args.train} training and {args.val} validation scenes to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
