"""What the converters' command lines share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import rich

from vmt_mm.conversion.recipe import Recipe
from vmt_mm.conversion.report import REPORT
from vmt_mm.conversion.run import convert
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser, print_problems


def converter_parser(description: str, layout: str) -> argparse.ArgumentParser:
    """A parser with what every converter takes.

    Args:
        description: what the tool does.
        layout: what the raw data set looks like.
    """
    parser = ToolParser(description=description)
    parser.add_argument("source", type=Path, metavar="SRC", help=f"{layout}; only read")
    parser.add_argument(
        "target",
        type=Path,
        metavar="DST",
        help="folder to write: new, or of a run that was stopped, which is then completed",
    )
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes to work with"
    )
    parser.add_argument(
        "--link", action="store_true", help="make hard links of the images instead of copies"
    )
    parser.add_argument(
        "--normals-axes",
        default="x,-y,z",
        metavar="AXES",
        help="which of the source's components of a normal point right, up, and towards the "
        "camera, with a minus if opposite, or the name of a frame, such as opencv; %(default)s by "
        "default. One that starts with a minus is given as --normals-axes=-x,y,z",
    )
    return parser


def run_converter(args: argparse.Namespace, make_recipe: Callable[[str], Recipe]) -> int:
    """Convert and print the report.

    Args:
        args: of :func:`converter_parser`.
        make_recipe: makes the recipe from ``--normals-axes``.

    Returns:
        The exit status: 0 if the set is whole, 130 after Ctrl-C.
    """
    try:
        return _convert(args, make_recipe)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        # Here alone, since this brings torch, which a converter and its workers need not load.
        from vmt_mm.cli.errors import friendly_errors

        with friendly_errors():
            raise error


def _convert(args: argparse.Namespace, make_recipe: Callable[[str], Recipe]) -> int:
    recipe = make_recipe(args.normals_axes)
    report = convert(recipe, args.source, args.target, args.workers, args.link)
    rich.print(report.table())
    print_problems(report.problems)
    verdict = "is whole" if not report.problems else "is NOT whole"
    print(
        f"{recipe.name} {verdict}: {len(report.problems):,} problem(s), {report.converted:,} "
        f"image(s) converted now; {args.target / REPORT}"
    )
    return 1 if report.problems else 0
