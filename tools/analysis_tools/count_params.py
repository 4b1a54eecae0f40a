"""Count trainable parameters: `python tools/analysis_tools/count_params.py CONFIG...`.

One row a config: encoder with its PEFT method, output norms, decoders, all; what is frozen; and the
share of the encoder's parameters, of the one in use and, as the paper prints it, of one for every
task. Configs of the paper's Tables 2 and 3 get its numbers beside. No weights or data are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from rich.console import Console
from rich.progress import track

from vmt_mm.analysis.models import load_experiments
from vmt_mm.analysis.parameter_report import (
    parameter_comparison,
    parameter_record,
    summarize_experiment,
)
from vmt_mm.analysis.tables import print_table
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser, several=True)
    parser.add_argument("--json", action="store_true", help="print JSON, counts in parameters")
    return parser.parse_args()


def main() -> None:
    """Count."""
    args = parse_args()
    with friendly_errors():
        # what libraries say while they build must not stand among the JSON
        with contextlib.redirect_stdout(sys.stderr):
            experiments = load_experiments(args.configs, args.cfg_options)
            progress = Console(stderr=True)
            summaries = {
                experiment.path: summarize_experiment(experiment)
                for experiment in track(experiments, "counting", console=progress, transient=True)
            }
        if args.json:
            records = [parameter_record(path, summary) for path, summary in summaries.items()]
            print(json.dumps(records, indent=2))
        else:
            print_table(parameter_comparison(summaries))


if __name__ == "__main__":
    main()
