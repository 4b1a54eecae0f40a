"""Coordinate frames of surface normals, and their 8-bit encoding; does not import PyTorch.

The project's frame is x right, y up, z towards the camera. A frame is written as the components of
the source that point right, up and towards the camera, with a minus for opposite directions.
"""

from collections.abc import Sequence

import numpy as np

from vmt_mm.errors import InputError

#: Frames of known datasets.
FRAMES = dict(
    opengl="x,y,z",  # x right, y up, z towards the camera; Blender's camera
    opencv="x,-y,-z",  # x right, y down, z into the scene
    omnidata="x,-y,z",  # x right, y down, z towards the camera; 2D3DS, Taskonomy
    dsine="-x,y,z",  # x left, y up, z towards the camera; StableNormal
    pytorch3d="-x,y,-z",  # x left, y up, z into the scene
)


def parse_frame(frame: str) -> str:
    """Return the axes of a frame, such as ``x,-y,z``, given its name or axes; else InputError."""
    axes = FRAMES.get(frame, frame) if isinstance(frame, str) else ""
    entries = [entry.strip() for entry in axes.split(",")]
    if sorted(entry.removeprefix("-") for entry in entries) != ["x", "y", "z"]:
        rule = "the axes that point right, up and towards the camera, such as x,-y,z"
        raise InputError(f"frame of normals {frame!r}: expected {rule}, or {', '.join(FRAMES)}")
    return ",".join(entries)


def components(axes: str) -> list[tuple[int, int]]:
    """Return (index, sign) of the components that point right, up and towards the camera."""
    return [("xyz".index(e[-1]), -1 if e[0] == "-" else 1) for e in axes.split(",")]


def to_camera_frame(vectors: np.ndarray, axes: str) -> np.ndarray:
    """Convert vectors (..., 3) from the frame with these axes to the project's frame."""
    return np.stack([vectors[..., index] * sign for index, sign in components(axes)], axis=-1)


def from_camera_frame(vectors: np.ndarray, axes: str) -> np.ndarray:
    """Convert vectors (..., 3) from the project's frame to the frame with these axes."""
    turned = np.empty_like(vectors)
    for place, (index, sign) in enumerate(components(axes)):
        turned[..., index] = vectors[..., place] * sign
    return turned


def turned_frame(axes: str, flips: Sequence[bool]) -> str:
    """Return the name, or else the axes, of the frame with these directions of ``axes`` flipped."""
    pairs = zip(components(axes), flips, strict=True)
    turned = ",".join("-" * ((s < 0) != flip) + "xyz"[index] for (index, s), flip in pairs)
    return next((name for name, known in FRAMES.items() if known == turned), turned)


def encode_normals(normals: np.ndarray) -> np.ndarray:
    """Encode unit vectors n (..., 3) as uint8 v, where n = 2 v / 255 - 1."""
    return np.rint(np.clip((normals + 1) * 127.5, 0, 255)).astype(np.uint8)
