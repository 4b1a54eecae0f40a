"""Transforms that know labels by their spec, never by a task's name."""

from vmt_mm.datasets.transforms.geometry import (
    Pad,
    RandomCrop,
    RandomFlip,
    RandomResize,
    RandomWarp,
    Resize,
    make_warp,
)
from vmt_mm.datasets.transforms.loading import LoadLabels, PackMultiTaskInputs

__all__ = [
    "LoadLabels",
    "PackMultiTaskInputs",
    "Pad",
    "RandomCrop",
    "RandomFlip",
    "RandomResize",
    "RandomWarp",
    "Resize",
    "make_warp",
]
