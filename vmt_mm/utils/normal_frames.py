"""Coordinate frames of surface normals, and how they turn into the project's.

The project's frame is x right, y up, z towards the camera. Another one is written as the source's
components, each once and with a minus if opposite, that point right, up, and towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmt_mm.errors import InputError

#: Frames that data sets are known to have.
FRAMES = dict(
    opengl="x,y,z",  # x right, y up, z towards the camera; Blender's camera
    opencv="x,-y,-z",  # x right, y down, z into the scene
    omnidata="x,-y,z",  # x right, y down, z towards the camera; 2D3DS, Taskonomy
    dsine="-x,y,z",  # x left, y up, z towards the camera; StableNormal
    pytorch3d="-x,y,-z",  # x left, y up, z into the scene
)


def parse_frame(frame: str) -> str:
    """Return the axes of a frame, such as ``x,-y,z``, given by its name or by its axes.

    Raises:
        InputError: if it is neither.
    """
    axes = FRAMES.get(frame, frame) if isinstance(frame, str) else ""
    entries = [entry.strip() for entry in axes.split(",")]
    if sorted(entry.removeprefix("-") for entry in entries) != ["x", "y", "z"]:
        raise InputError(
            f"frame of normals {frame!r}: expected one of {', '.join(FRAMES)}, or the source's x, y"
            " and z, each once and with a minus if opposite, in the order right, up, towards the "
            "camera; such as x,-y,z"
        )
    return ",".join(entries)


def components(axes: str) -> tuple[list[int], list[int]]:
    """Which of the source's components points right, up and to the camera, and with which sign."""
    entries = axes.split(",")
    return ["xyz".index(entry[-1]) for entry in entries], [
        -1 if entry[0] == "-" else 1 for entry in entries
    ]


def to_camera_frame(vectors: np.ndarray, axes: str) -> np.ndarray:
    """Sort and turn the components of vectors (..., 3).

    Args:
        vectors: components x, y, z as the source has them.
        axes: see :func:`parse_frame`: ``x,-y,z`` for a source whose y points down.
    """
    order, signs = components(axes)
    return vectors[..., order] * np.array(signs, vectors.dtype)


def turned_frame(axes: str, flips: Sequence[bool]) -> str:
    """The frame that files have if the axes right, up and to the camera are opposite where said.

    Args:
        axes: as which the files were read.
        flips: for each of the three whether it came out opposite.

    Returns:
        The name of a frame, or its axes.
    """
    order, signs = components(axes)
    turned = ",".join(
        f"{'-' if (sign < 0) != flip else ''}{'xyz'[index]}"
        for index, sign, flip in zip(order, signs, flips, strict=True)
    )
    return next((name for name, known in FRAMES.items() if known == turned), turned)
