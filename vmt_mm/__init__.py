"""One frozen vision transformer, many dense tasks: VMT-Adapter for MMSegmentation.

Method: VMT-Adapter, AAAI 2024, https://arxiv.org/abs/2312.08733.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

_missing = [name for name in ("torch", "mmengine", "mmcv", "mmseg") if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"vmt_mm needs {', '.join(_missing)}: run `pip install -r requirements/locked.txt` in a "
        "clone of vmt_mm, or activate the environment that has your OpenMMLab packages."
    )
