"""Images to try: rendered scenes, which no training has seen."""

from __future__ import annotations

from pathlib import Path

from vmt_mm.rendering import render_scene
from vmt_mm.utils.files import write_image

#: Split of the renderer that no data set uses.
_SPLIT = "webapp"


def render_examples(folder: Path, count: int = 6, size: int = 224, seed: int = 0) -> list[Path]:
    """Render scenes into a folder.

    Args:
        folder: where to.
        count: how many.
        size: side in pixels.
        seed: of the scenes.

    Returns:
        The image files.
    """
    paths = [folder / f"scene_{index + 1}.png" for index in range(count)]
    for index, path in enumerate(paths):
        write_image(path, render_scene(seed, _SPLIT, index, size).image)
    return paths
