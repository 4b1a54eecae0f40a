"""Convert NYUD_MT (NYU Depth v2 with four tasks) to the one layout.

`python tools/dataset_converters/nyud.py NYUDv2.tgz data/nyud_mt`. What the archive holds:
`vmt_mm/conversion/nyud.py`.
"""

from __future__ import annotations

import sys

from vmt_mm.cli.conversion import converter_parser, run_converter
from vmt_mm.conversion.nyud import nyud


def main() -> int:
    """Run the command; returns the exit status."""
    layout = "folder or archive that holds images/, gt_sets/ and the labels"
    parser = converter_parser(__doc__.splitlines()[0], layout)
    return run_converter(parser.parse_args(), nyud)


if __name__ == "__main__":
    sys.exit(main())
