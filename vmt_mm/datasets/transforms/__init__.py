"""Transforms that know labels by their spec, never by a task's name."""

from vmt_mm.datasets.transforms.crop import RandomCrop
from vmt_mm.datasets.transforms.geometry import (
    Pad,
    RandomFlip,
    RandomResize,
    RandomWarp,
    Resize,
    make_warp,
)
from vmt_mm.datasets.transforms.loading import LoadImageFromFile, LoadLabels, PackMultiTaskInputs
from vmt_mm.datasets.transforms.test_time_aug import TestTimeAug

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
