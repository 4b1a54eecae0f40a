"""Transforms that handle labels by their spec, independent of task names."""

from vmt_mm.datasets.transforms.geometry import (
    Pad,
    RandomCrop,
    RandomFlip,
    RandomResize,
    RandomWarp,
    Resize,
    TestTimeAug,
    make_warp,
)
from vmt_mm.datasets.transforms.load import (
    DeriveLabel,
    LoadImageFromFile,
    LoadLabels,
    PackMultiTaskInputs,
)

__all__ = ["Pad", "RandomCrop", "RandomFlip", "RandomResize", "RandomWarp", "Resize", "TestTimeAug"]
__all__ += ["DeriveLabel", "LoadImageFromFile", "LoadLabels", "PackMultiTaskInputs", "make_warp"]
