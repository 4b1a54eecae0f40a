"""Transforms that know labels by their spec, never by a task's name."""

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
from vmt_mm.datasets.transforms.load_image import LoadImageFromFile
from vmt_mm.datasets.transforms.load_labels import LoadLabels, PackMultiTaskInputs

__all__ = [
    "LoadImageFromFile",
    "LoadLabels",
    "PackMultiTaskInputs",
    "Pad",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "RandomWarp",
    "Resize",
    "TestTimeAug",
    "make_warp",
]
