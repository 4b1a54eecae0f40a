"""Convert PASCAL_MT (PASCAL-Context with five tasks) to the layout of this project.

`python tools/dataset_converters/pascal_context.py PASCAL_MT.tgz data/pascal_mt`. Content of the
archive and frame of its normals: `vmt_mm/conversion/pascal_context.py`.
"""

from __future__ import annotations

import sys

from vmt_mm.cli.conversion import run_converter
from vmt_mm.conversion.pascal_context import pascal_context

if __name__ == "__main__":
    sys.exit(run_converter(__doc__.splitlines()[0], lambda args: pascal_context(args.normals_axes)))
