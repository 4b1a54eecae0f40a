"""Convert NYU Depth v2, either NYUD_MT or the original, to the layout of this project.

`python tools/dataset_converters/nyud.py NYUDv2.tgz data/nyud_mt`. Content of the archive:
`vmt_mm/conversion/nyud.py`. The original, with normals from its depth:

    python tools/dataset_converters/nyud.py nyu_depth_v2_labeled.mat data/nyud \
        --splits splits.mat --class-mapping classMapping40.mat --normals-from depth
"""

from __future__ import annotations

import argparse
import sys

from vmt_mm.cli.conversion import run_converter
from vmt_mm.conversion.nyud import nyud, nyud_labeled
from vmt_mm.conversion.recipe import Recipe
from vmt_mm.errors import InputError

FILES = dict(
    splits="splits.mat, only with nyu_depth_v2_labeled.mat",
    class_mapping="classMapping40.mat (894 to 40 classes), only with nyu_depth_v2_labeled.mat",
)


def make_recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe of the source; InputError if the options do not fit."""
    if args.source.suffix == ".mat":
        return nyud_labeled(args.splits, args.class_mapping)
    if args.splits or args.class_mapping:
        raise InputError("--splits and --class-mapping are for nyu_depth_v2_labeled.mat only")
    return nyud(args.normals_axes)


if __name__ == "__main__":
    sys.exit(run_converter(__doc__.splitlines()[0], make_recipe, **FILES))
