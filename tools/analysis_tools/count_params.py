"""Count trainable parameters: `python tools/analysis_tools/count_params.py CONFIG...`.

One row per config: trainable parameters of the backbone with its PEFT method, of output norms, of
heads and in total; frozen parameters; the trainable share of one backbone and, as in the paper, of
one backbone per task; the numbers of the paper's Tables 2 and 3. No weights or data are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys

from rich.console import Console
from rich.progress import track

from vmt_mm.analysis.counts import parameter_comparison, summarize_experiment
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.analysis.tables import print_table
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser, several=True)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def main() -> None:
    """Count parameters."""
    args = parse_args()
    with friendly_errors():
        # keep stdout clean for JSON: libraries print while they build models
        with contextlib.redirect_stdout(sys.stderr):
            experiments = load_experiments(args.configs, args.cfg_options)
            bar = track(experiments, "counting", console=Console(stderr=True), transient=True)
            summaries = [summarize_experiment(experiment) for experiment in bar]
        if args.json:
            print(json.dumps(summaries, indent=2))
        else:
            print_table(parameter_comparison(summaries))


if __name__ == "__main__":
    main()
