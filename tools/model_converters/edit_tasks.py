"""Remove or rename tasks in a checkpoint or an adapter file.

python tools/model_converters/edit_tasks.py CHECKPOINT OUT --remove NAME --rename OLD=NEW
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.loading.edit import edit_tasks
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint (.pth) or adapter file")
    parser.add_argument("out", type=Path, help="output file, same format")
    parser.add_argument("--remove", nargs="+", default=[], metavar="NAME", help="tasks to remove")
    parser.add_argument(
        "--rename", nargs="+", default=[], metavar="OLD=NEW", help="tasks to rename"
    )
    return parser.parse_args()


def main() -> None:
    """Edit the file."""
    args = parse_args()
    with friendly_errors():
        tasks = edit_tasks(args.checkpoint, args.out, args.remove, _pairs(args.rename))
        print(f"wrote {args.out}, tasks: {', '.join(tasks)}")


def _pairs(texts: list[str]) -> dict[str, str]:
    """Parse OLD=NEW; return a dict from old to new names."""
    pairs = {}
    for text in texts:
        old, sign, new = text.partition("=")
        if not (old and sign and new) or old in pairs:
            raise InputError(f"--rename must be OLD=NEW, with each task once, got {text!r}")
        pairs[old] = new
    return pairs


if __name__ == "__main__":
    main()
