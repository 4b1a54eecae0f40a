"""A deterministic renderer of small furnished rooms with exact dense labels."""

from .labels import CLASSES, PALETTE, PART_CLASSES, PART_PALETTE
from .render import RenderedScene, render_scene
from .writer import RENDERER_VERSION, write_dataset

__all__ = [
    "CLASSES",
    "PALETTE",
    "PART_CLASSES",
    "PART_PALETTE",
    "RENDERER_VERSION",
    "RenderedScene",
    "render_scene",
    "write_dataset",
]
