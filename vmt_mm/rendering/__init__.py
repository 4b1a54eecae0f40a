"""A deterministic renderer of small furnished rooms with exact dense labels."""

from .labels import CLASSES, PALETTE, PART_CLASSES, PART_PALETTE
from .render import RenderedScene, render_scene
from .writer import MANIFEST, manifest, write_dataset

__all__ = [
    "CLASSES",
    "MANIFEST",
    "PALETTE",
    "PART_CLASSES",
    "PART_PALETTE",
    "RenderedScene",
    "manifest",
    "render_scene",
    "write_dataset",
]
