"""Convert PASCAL_MT (PASCAL-Context with five tasks) to the one layout.

`python tools/dataset_converters/pascal_context.py PASCAL_MT.tgz data/pascal_mt`. What the archive
holds, and what is known of the frame of its normals: `vmt_mm/conversion/pascal_context.py`.
"""

from __future__ import annotations

import sys

from vmt_mm.cli.conversion import converter_parser, run_converter
from vmt_mm.conversion.pascal_context import pascal_context


def main() -> int:
    """Run the command; returns the exit status."""
    layout = "folder or archive that holds JPEGImages/, ImageSets/Context/ and the labels"
    parser = converter_parser(__doc__.splitlines()[0], layout)
    return run_converter(parser.parse_args(), pascal_context)


if __name__ == "__main__":
    sys.exit(main())
