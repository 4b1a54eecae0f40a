"""Convert NYUD_MT (NYU Depth v2 with four tasks) to the layout of this project.

`python tools/dataset_converters/nyud.py NYUDv2.tgz data/nyud_mt`. Content of the archive:
`vmt_mm/conversion/nyud.py`.
"""

from __future__ import annotations

import sys

from vmt_mm.cli.conversion import run_converter
from vmt_mm.conversion.nyud import nyud

if __name__ == "__main__":
    sys.exit(run_converter(__doc__.splitlines()[0], nyud))
