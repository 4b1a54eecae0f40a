"""Print the resolved config: `python tools/misc/print_config.py CONFIG`."""

from __future__ import annotations

import argparse

from vmt_mm.apis import load_config
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.dump import config_text
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    add_config_arguments(parser)
    return parser.parse_args()


def main() -> None:
    """Print the config."""
    args = parse_args()
    with friendly_errors():
        cfg = load_config(args.config, args.cfg_options)
        print(config_text(cfg, resolved=True), end="")


if __name__ == "__main__":
    main()
