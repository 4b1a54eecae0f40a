"""Count the operations of one image: `python tools/analysis_tools/get_flops.py CONFIG`.

Matrix products and convolutions are counted while they run, including attention, with 2 operations
per multiply-add; element-wise operations are not counted. No weights or data are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any

from rich.table import Table

from vmt_mm.analysis.counts import count_flops
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.analysis.tables import print_table, table_of
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument(
        "--shape", nargs="+", type=int, metavar="H W", help="image size; default: the config's"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, in operations")
    return parser.parse_args()


def flops_table(parts: list[dict[str, Any]], shape: tuple[int, int]) -> Table:
    """One row per part, and the sum."""
    total = {key: sum(part[key] for part in parts) for key in ("flops", "parameters")}
    rows = [
        {
            "part": part["name"],
            "GFLOPs": f"{part['flops'] / 1e9:.3f}",
            "GMACs": f"{part['flops'] / 2e9:.3f}",
            "parameters (M)": f"{part['parameters'] / 1e6:.3f}",
        }
        for part in (*parts, dict(name="all", **total))
    ]
    return table_of(f"operations of one image of {shape[0]} x {shape[1]}", rows)


def main() -> None:
    """Count operations."""
    args = parse_args()
    with friendly_errors():
        # keep stdout clean for JSON: libraries print while they build models
        with contextlib.redirect_stdout(sys.stderr):
            (experiment,) = load_experiments([args.config], args.cfg_options)
            shape = args.shape or list(experiment.cfg.get("image_size") or ())[::-1]
            if len(shape) == 1:  # a square, as in mmseg
                shape = shape * 2
            if len(shape) != 2 or min(shape) < 1:
                raise InputError(f"--shape must be positive integers, H W, got {shape or 'none'}")
            parts = [
                part for model in experiment.build_models() for part in count_flops(model, shape)
            ]
        if args.json:
            print(json.dumps(parts, indent=2))
        else:
            print_table(flops_table(parts, tuple(shape)))


if __name__ == "__main__":
    main()
