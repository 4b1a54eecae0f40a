"""The command line of the converters."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import rich

from vmt_mm.conversion.recipe import Recipe
from vmt_mm.conversion.run import REPORT, convert
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser, print_problems

#: Components of the source's normals that point right, up, and towards the camera.
_AXES = "name of a frame, such as opencv, or axes (--normals-axes=-x,y,z); default: %(default)s"


def run_converter(description: str, make_recipe: Callable[[str], Recipe]) -> int:
    """Parse the command line, convert the dataset and print the report.

    ``make_recipe`` makes the recipe from ``--normals-axes``. Returns the exit status: 0 if the
    dataset is complete, 130 after Ctrl-C, else 1.
    """
    parser, cores = ToolParser(description=description), os.cpu_count() or 1
    parser.add_argument("source", type=Path, help="folder or archive to read")
    parser.add_argument("target", type=Path, help="folder to write: new, or of an earlier run")
    parser.add_argument("--workers", type=int, default=min(8, cores), help="number of processes")
    parser.add_argument("--link", action="store_true", help="hard-link the images")
    parser.add_argument("--normals-axes", default="x,-y,z", metavar="AXES", help=_AXES)
    args = parser.parse_args()
    try:
        recipe = make_recipe(args.normals_axes)
        report = convert(recipe, args.source, args.target, args.workers, args.link)
    except KeyboardInterrupt:
        print("stopped; run the same command to continue", file=sys.stderr)
        return 130
    except (InputError, OSError) as error:  # cli.errors would load torch
        print(f"error: {error}", file=sys.stderr)
        return 1
    rich.print(report.table())
    print_problems(report.problems)
    print(
        f"{recipe.name} is {'NOT ' * bool(report.problems)}complete: {len(report.problems):,} "
        f"problem(s), {report.converted_now:,} image(s) converted now; {args.target / REPORT}"
    )
    return 1 if report.problems else 0
