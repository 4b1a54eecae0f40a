"""Export the trained parameters, without the frozen backbone, to a file of a few megabytes.

python tools/model_converters/export_adapter.py CONFIG CHECKPOINT OUT.safetensors \
    [--half] [--note NAME TEXT]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt_mm.apis import load_config
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.loading.adapters import export_adapter
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint of a training run with this config")
    parser.add_argument("out", type=Path, help="output file, .safetensors")
    parser.add_argument("--half", action="store_true", help="store parameters as float16")
    parser.add_argument(
        "--note",
        nargs=2,
        action="append",
        metavar=("NAME", "TEXT"),
        help="text to store in the file, such as --note license 'research use only'; repeatable",
    )
    return parser.parse_args()


def main() -> None:
    """Export the adapter file."""
    args = parse_args()
    with friendly_errors():
        cfg = load_config(args.config, args.cfg_options, training=False)
        adapter = export_adapter(cfg, args.checkpoint, args.out, args.half, dict(args.note or ()))
        count = sum(value.numel() for value in adapter.tensors.values())
        print(f"wrote {count:,} values, {args.out.stat().st_size:,} bytes: {args.out}")
        print(f"tasks: {', '.join(adapter.tasks)}")
        source, digest = adapter.frozen["source"], adapter.frozen["sha256"]
        print(f"frozen backbone: {source}, SHA-256 {digest}" if source else "no frozen backbone")
        if adapter.metrics is None:
            print("metrics: unknown for these weights")


if __name__ == "__main__":
    main()
