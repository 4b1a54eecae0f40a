"""What recipes share: read raw arrays, make labels of normals, thin lines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from vmt_mm.conversion.recipe import Label
from vmt_mm.errors import InputError
from vmt_mm.utils.normal_frames import encode_normals, to_camera_frame

#: Shorter vectors have no usable direction; fewer pixels prove nothing about the axes.
_MIN_LENGTH, _ENOUGH = 0.1, 1000


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read a variable of a MATLAB file (version 7 or older); InputError if there is none."""
    try:
        content = scipy.io.loadmat(path, variable_names=[key])
    except Exception as error:  # a damaged file raises whatever its bytes happen to mean
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a MATLAB file ({reason})") from None
    if key not in content:
        raise InputError(f"{path}: has no variable {key!r}")
    return content[key]


def read_npy(path: Path, channels: tuple[int, ...] = ()) -> np.ndarray:
    """Read numbers (H, W, *channels), or InputError; (H, W, 1) counts as (H, W)."""
    try:
        values = np.load(path, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a NumPy array ({error})") from None
    if values.shape[2:] == (1,):
        values = values[..., 0]
    if values.ndim < 2 or values.shape[2:] != channels or values.dtype.kind not in "buif":
        shape = ", ".join(map(str, ("H", "W", *channels)))
        found = f"{values.dtype} {values.shape}"
        raise InputError(f"{path}: expected numbers of shape ({shape}), got {found}")
    return values


def check_size(path: Path, vectors: np.ndarray, other: Path, classes: np.ndarray) -> None:
    """Raise InputError unless normals (H, W, 3) and the classes that go with them have one size."""
    if vectors.shape[:2] != classes.shape:
        sizes = f"{vectors.shape[:2]} (height, width), but {other} has {classes.shape}"
        raise InputError(f"{path}: normals of size {sizes}")


def normals_label(
    vectors: np.ndarray, valid: np.ndarray, axes: str, floor: np.ndarray | None = None
) -> Label:
    """Make a label in the layout's frame, and count what shows whether the axes are right.

    ``vectors`` (H, W, 3) have any length, in the frame of ``axes``; those at ``valid`` (H, W) are
    kept; ``floor`` (H, W) are floors. The label is RGB uint8, n = 2 v / 255 - 1, 0 for none.
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
    towards, up = valid & (unit[..., 2] > 0), floor & (unit[..., 1] > 0)
    counts = dict(valid=valid, towards_camera=towards, floor=floor, up=up)
    return Label(image, {name: int(pixels.sum()) for name, pixels in counts.items()})


def judge_axes(notes: Mapping[str, Mapping[str, int]], axes: str) -> list[str]:
    """Say which axes are wrong: visible surfaces face the camera, and floors face up."""
    counts, problems = notes.get("normals", {}), []
    for what, rule, position in (("valid", "towards_camera", "third"), ("floor", "up", "second")):
        if counts.get(what, 0) >= _ENOUGH and 2 * counts[rule] < counts[what]:
            problems.append(
                f"normals: of the {what} pixels only {counts[rule] / counts[what]:.0%} point "
                f"{rule}: change the {position} of the axes {axes!r}"
            )
    return problems


def _deletable(second: bool) -> np.ndarray:
    """For each of 256 codes of neighbours, whether a sub-iteration removes the pixel; uint8."""
    ring = (np.arange(256) >> np.arange(8)[:, None] & 1).astype(bool)  # N, NE, E, ..., NW
    after = np.roll(ring, -1, axis=0)
    pieces = (~ring & (after | np.roll(ring, -2, axis=0)))[::2].sum(axis=0)
    pairs = np.stack([ring | np.roll(ring, 1, axis=0), ring | after])[:, ::2].sum(axis=1)
    neighbours = pairs.min(axis=0)
    one, two, three, side = ring[[4, 5, 7, 6] if second else [0, 1, 3, 2]]
    keep = (one | two | ~three) & side
    return ((pieces == 1) & (neighbours >= 2) & (neighbours <= 3) & ~keep).astype(np.uint8)


_TABLES = (_deletable(second=False), _deletable(second=True))
#: Bit of each neighbour in a pixel's code.
_BITS = np.float32([[128, 1, 2], [64, 0, 4], [32, 16, 8]])


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a mask (H, W) to lines of one pixel that are connected as it was; bool.

    Guo and Hall, Communications of the ACM 32(3), 1989, algorithm A1; unlike Zhang and Suen's, it
    keeps squares of 2 x 2 and slanted lines of two pixels.
    """
    image, before = np.asarray(mask, bool).astype(np.uint8), None
    while before is None or not np.array_equal(image, before):
        before = image
        for table in _TABLES:
            code = cv2.filter2D(image, cv2.CV_8U, _BITS, borderType=cv2.BORDER_CONSTANT)
            image = image & ~table[code]
    return image.astype(bool)
