"""Bring surface normals to the layout's frame: x right, y up, z towards the camera."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vmt_mm.conversion.recipe import Label, Notes
from vmt_mm.errors import InputError
from vmt_mm.rendering.writer import encode_normals
from vmt_mm.utils.normal_frames import to_camera_frame

#: Shorter vectors have no direction to speak of.
_MIN_LENGTH = 0.1
#: So many pixels must be there before they prove anything.
_ENOUGH = 1000


def normals_label(
    vectors: np.ndarray, valid: np.ndarray, axes: str, floor: np.ndarray | None = None
) -> Label:
    """Make a label, and note what shows whether the axes are right.

    Args:
        vectors: (H, W, 3) in the source's frame, float, of any length.
        valid: (H, W) bool, where they are to be kept.
        axes: see :func:`~vmt_mm.utils.normal_frames.parse_frame`.
        floor: (H, W) bool, pixels of floors, if known.

    Returns:
        RGB (H, W, 3) uint8 with n = 2 v / 255 - 1, (0, 0, 0) where there is none; no label at all
        if there is none anywhere.
    """
    length = np.sqrt(np.einsum("...c,...c->...", vectors, vectors))
    valid = valid & np.isfinite(length) & (length > _MIN_LENGTH)
    if not valid.any():
        return Label(None)
    unit = to_camera_frame(vectors, axes) / np.where(valid, length, 1)[..., None]
    unit[~valid] = 0
    image = encode_normals(unit)
    image[~valid] = 0
    floor = valid & floor if floor is not None else np.zeros_like(valid)
    counts = dict(
        valid=valid,
        towards_camera=valid & (unit[..., 2] > 0),
        floor=floor,
        floor_up=floor & (unit[..., 1] > 0),
    )
    return Label(image, {name: int(pixels.sum()) for name, pixels in counts.items()})


def judge_axes(notes: Mapping[str, Notes], task: str, axes: str) -> list[str]:
    """Say which axes the labels of a whole set disprove.

    What is seen faces the camera, and floors face up; whether x points right no such rule tells.
    """
    counts = notes.get(task, {})
    rules = (
        ("valid", "towards_camera", "pixels with normals", "towards the camera", "third"),
        ("floor", "floor_up", "floor pixels", "up", "second"),
    )
    return [
        f"{task}: of the {what} only {counts[good] / counts[all_]:.0%} point {where}: the "
        f"{position} of the axes {axes!r} is wrong, turn its sign or take another"
        for all_, good, what, where, position in rules
        if counts.get(all_, 0) >= _ENOUGH and 2 * counts[good] < counts[all_]
    ]


def read_vectors(values: np.ndarray, path: Path) -> np.ndarray:
    """Check that numbers (H, W, 3) are vectors, and return them as float32.

    Raises:
        InputError: if components are not within -1..1.
    """
    vectors = values.astype(np.float32)
    largest = np.nanmax(np.abs(vectors), initial=0)
    if largest > 1.01:
        raise InputError(f"{path}: expected components of unit vectors, found one of {largest:g}")
    return vectors
