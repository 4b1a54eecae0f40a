"""The command line of the converters."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import rich

from vmt_mm.conversion.depth_normals import derive_normals
from vmt_mm.conversion.recipe import Recipe
from vmt_mm.conversion.run import REPORT, convert
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser, print_problems

#: Components of the source's normals that point right, up, and towards the camera.
_AXES = "name of a frame, such as opencv, or axes (--normals-axes=-x,y,z); default: %(default)s"


def run_converter(
    description: str, make_recipe: Callable[[argparse.Namespace], Recipe], **files: str
) -> int:
    """Parse the command line, convert the dataset and print the report.

    ``make_recipe`` makes the recipe from the parsed arguments; ``files`` are the names of further
    options that take a file, with their help. Returns the exit status: 0 if the dataset is
    complete, 130 after Ctrl-C, else 1.
    """
    parser, cores = ToolParser(description=description), os.cpu_count() or 1
    parser.add_argument("source", type=Path, help="folder or archive to read")
    parser.add_argument("target", type=Path, help="folder to write: new, or of an earlier run")
    parser.add_argument("--workers", type=int, default=min(8, cores), help="number of processes")
    parser.add_argument("--link", action="store_true", help="hard-link the images")
    parser.add_argument("--normals-axes", default="x,-y,z", metavar="AXES", help=_AXES)
    origin = dict(choices=("files", "depth"), default="files")
    parser.add_argument("--normals-from", **origin, help="depth: by a plane fit, replacing files")
    camera = dict(type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"))
    parser.add_argument("--intrinsics", **camera, help="in pixels; default: the dataset's camera")
    parser.add_argument("--window", type=int, default=31, help="side in pixels of the plane fit")
    for name, text in files.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, help=text)
    args = parser.parse_args()
    try:
        recipe = make_recipe(args)
        if args.normals_from != "files":
            recipe = derive_normals(recipe, args.intrinsics, args.window)
        elif args.intrinsics:
            raise InputError("--intrinsics needs --normals-from depth")
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
