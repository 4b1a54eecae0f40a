"""Print the whole config, as every tool reads it: `python tools/misc/print_config.py CONFIG`."""

from __future__ import annotations

import argparse

from mmengine.config import DictAction

from vmt_mm.apis import friendly_errors, load_config


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE, merged into the config"
    )
    return parser.parse_args()


def main() -> None:
    """Print."""
    args = parse_args()
    with friendly_errors():
        print(load_config(args.config, args.cfg_options).pretty_text)


if __name__ == "__main__":
    main()
