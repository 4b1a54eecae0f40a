"""Deterministic ray-tracing renderer of small furnished rooms with exact dense labels."""

from vmt_mm.rendering.render import RenderedScene, render_scene
from vmt_mm.rendering.writer import write_dataset

__all__ = ["RenderedScene", "render_scene", "write_dataset"]
