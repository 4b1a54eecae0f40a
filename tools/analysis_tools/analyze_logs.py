"""Plot curves and report times of training runs from their logs, like mmseg's tool.

python tools/analysis_tools/analyze_logs.py plot_curve WORK_DIR --keys loss_semseg semseg/mIoU \
    --out curves.png
python tools/analysis_tools/analyze_logs.py cal_train_time WORK_DIR

A log is a JSON file from a run's vis_data, or a work dir, which means all its runs (original and
resumed) joined.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vmt_mm.analysis.logs import curve, draw_curves, main_keys, read_log, train_times
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_image


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    plot = commands.add_parser("plot_curve", help="plot values of training runs")
    plot.add_argument("--keys", nargs="+", help="values to plot; default: all losses and metrics")
    plot.add_argument("--title", help="title of the plot")
    plot.add_argument("--legend", nargs="+", help="name of each curve, by log, then by key")
    plot.add_argument("--out", type=Path, required=True, help="image to write (.png, ...)")
    times = commands.add_parser("cal_train_time", help="seconds per iteration")
    times.add_argument("--include-outliers", action="store_true", help="include slow log lines")
    for command in (plot, times):
        command.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    return parser.parse_args()


def plot_curve(args: argparse.Namespace) -> None:
    """Plot the requested values."""
    logs = {path: read_log(path) for path in args.logs}
    pairs = [
        (path, key) for path, records in logs.items() for key in args.keys or main_keys(records)
    ]
    names = args.legend or [key if len(logs) == 1 else f"{path}: {key}" for path, key in pairs]
    if len(names) != len(pairs):
        raise InputError(f"--legend needs one name per curve, {len(pairs)}, got {len(names)}")
    curves = [
        (name, key, *curve(logs[path], key)) for name, (path, key) in zip(names, pairs, strict=True)
    ]
    check_outputs({"--out": args.out}, [log for log in args.logs if log.is_file()])
    write_image(args.out, draw_curves(curves, args.title))
    print(f"picture: {args.out}")


def cal_train_time(args: argparse.Namespace) -> None:
    """Print times in mmseg's format."""
    for path in args.logs:
        times = train_times(read_log(path), args.include_outliers, path)
        print(f"----- {path} -----")
        print(f"slowest epoch {times['slowest']}, average time is {times['slowest_s']:.4f} s/iter")
        print(f"fastest epoch {times['fastest']}, average time is {times['fastest_s']:.4f} s/iter")
        print(f"time std over epochs is {times['std_s']:.4f} s")
        print(f"average iter time: {times['mean_s']:.4f} s/iter")


def main() -> None:
    """Plot curves or print times."""
    args = parse_args()
    with friendly_errors():
        dict(plot_curve=plot_curve, cal_train_time=cal_train_time)[args.command](args)


if __name__ == "__main__":
    main()
