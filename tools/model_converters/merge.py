"""Merge an adapter file and its frozen backbone into one self-contained checkpoint.

python tools/model_converters/merge.py ADAPTER [--pretrained FILE] OUT.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt_mm.cli.errors import friendly_errors
from vmt_mm.loading.adapters import merge_adapter
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="adapter file written by export_adapter.py")
    parser.add_argument("out", type=Path, help="output file, .pth")
    parser.add_argument("--pretrained", help="backbone file; default: the one named in ADAPTER")
    return parser.parse_args()


def main() -> None:
    """Merge both files."""
    args = parse_args()
    with friendly_errors():
        model = merge_adapter(args.adapter, args.out, args.pretrained)
        count = sum(value.numel() for value in model.parameters())
        print(f"wrote {count:,} parameters, {args.out.stat().st_size:,} bytes: {args.out}")


if __name__ == "__main__":
    main()
