"""Coordinate frames of surface normals, and their 8-bit code; needs no PyTorch.

The project's frame is x right, y up, z towards the camera. A frame is written as the source's
components, each once and with a minus if opposite, that point right, up and towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vmt_mm.errors import InputError

#: Frames of known data sets.
FRAMES = dict(
    opengl="x,y,z",  # x right, y up, z towards the camera; Blender's camera
    opencv="x,-y,-z",  # x right, y down, z into the scene
    omnidata="x,-y,z",  # x right, y down, z towards the camera; 2D3DS, Taskonomy
    dsine="-x,y,z",  # x left, y up, z towards the camera; StableNormal
    pytorch3d="-x,y,-z",  # x left, y up, z into the scene
)


def parse_frame(frame: str) -> str:
    """Axes of a frame, such as ``x,-y,z``, given by its name or axes; InputError if it is none."""
    axes = FRAMES.get(frame, frame) if isinstance(frame, str) else ""
    entries = [entry.strip() for entry in axes.split(",")]
    if sorted(entry.removeprefix("-") for entry in entries) != ["x", "y", "z"]:
        rule = "the source's x, y and z that point right, up and towards the camera, as x,-y,z"
        raise InputError(f"frame of normals {frame!r}: expected {rule}, or {', '.join(FRAMES)}")
    return ",".join(entries)


def components(axes: str) -> list[tuple[int, int]]:
    """Index and sign of the source's components that point right, up and towards the camera."""
    return [("xyz".index(e[-1]), -1 if e[0] == "-" else 1) for e in axes.split(",")]


def to_camera_frame(vectors: np.ndarray, axes: str) -> np.ndarray:
    """Bring vectors (..., 3) from the frame with these axes to the project's."""
    return np.stack([vectors[..., index] * sign for index, sign in components(axes)], axis=-1)


def from_camera_frame(vectors: np.ndarray, axes: str) -> np.ndarray:
    """Bring vectors (..., 3) from the project's frame to the one with these axes."""
    turned = np.empty_like(vectors)
    for place, (index, sign) in enumerate(components(axes)):
        turned[..., index] = vectors[..., place] * sign
    return turned


def turned_frame(axes: str, flips: Sequence[bool]) -> str:
    """Name, or else axes, of the frame that differs from ``axes`` by these opposite directions."""
    pairs = zip(components(axes), flips, strict=True)
    turned = ",".join("-" * ((s < 0) != flip) + "xyz"[index] for (index, s), flip in pairs)
    return next((name for name, known in FRAMES.items() if known == turned), turned)


def encode_normals(normals: np.ndarray) -> np.ndarray:
    """Encode unit vectors (..., 3) as uint8 v with n = 2 v / 255 - 1."""
    return np.rint(np.clip((normals + 1) * 127.5, 0, 255)).astype(np.uint8)
