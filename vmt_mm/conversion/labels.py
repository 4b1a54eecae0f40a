"""Helpers of recipes: read raw arrays, make normal labels, thin lines."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from vmt_mm.conversion.recipe import Label
from vmt_mm.errors import InputError
from vmt_mm.utils.normal_frames import encode_normals, to_camera_frame

#: Least length of a vector with a usable direction; least number of pixels to judge the axes.
_MIN_LENGTH, _ENOUGH = 0.1, 1000
#: Padding in pixels while borders are thinned.
_MARGIN = 2


def read_mat(path: Path, key: str) -> np.ndarray:
    """Read a variable of a MATLAB file (version 7 or older). Raises InputError if it is missing."""
    try:
        content = scipy.io.loadmat(path, variable_names=[key])
    except Exception as error:  # damaged files raise arbitrary exceptions
        reason = str(error).split("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a MATLAB file ({reason})") from None
    if key not in content:
        raise InputError(f"{path}: has no variable {key!r}")
    return content[key]


def read_npy(path: Path, channels: tuple[int, ...] = ()) -> np.ndarray:
    """Read a NumPy file of numbers (H, W, *channels), else InputError; (H, W, 1) becomes (H, W)."""
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
    """Raise InputError unless normals (H, W, 3) and classes (H, W) have the same size."""
    if vectors.shape[:2] != classes.shape:
        sizes = f"{vectors.shape[:2]} (height, width), but {other} has {classes.shape}"
        raise InputError(f"{path}: normals of size {sizes}")


def normals_label(
    vectors: np.ndarray, valid: np.ndarray, axes: str, floor: np.ndarray | None = None
) -> Label:
    """Make a normal label in the project's frame, with statistics for :func:`judge_axes`.

    ``vectors`` (H, W, 3) have any length, in the frame ``axes``; ``valid`` (H, W) masks pixels to
    keep, ``floor`` (H, W) floors. The label is RGB uint8, n = 2 v / 255 - 1, black = no normal.
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
    """Return messages on wrong axes: visible surfaces must face the camera, and floors up."""
    counts, problems = notes.get("normals", {}), []
    for what, rule, position in (("valid", "towards_camera", "third"), ("floor", "up", "second")):
        if counts.get(what, 0) >= _ENOUGH and 2 * counts[rule] < counts[what]:
            problems.append(
                f"normals: of the {what} pixels only {counts[rule] / counts[what]:.0%} point "
                f"{rule}: change the {position} of the axes {axes!r}"
            )
    return problems


def _deletable(second: bool) -> np.ndarray:
    """Lookup table (256,) uint8: whether a sub-iteration deletes a pixel with these neighbours."""
    ring = (np.arange(256) >> np.arange(8)[:, None] & 1).astype(bool)  # N, NE, E, ..., NW
    after = np.roll(ring, -1, axis=0)
    pieces = (~ring & (after | np.roll(ring, -2, axis=0)))[::2].sum(axis=0)
    pairs = np.stack([ring | np.roll(ring, 1, axis=0), ring | after])[:, ::2].sum(axis=1)
    neighbours = pairs.min(axis=0)
    one, two, three, side = ring[[4, 5, 7, 6] if second else [0, 1, 3, 2]]
    keep = (one | two | ~three) & side
    return ((pieces == 1) & (neighbours >= 2) & (neighbours <= 3) & ~keep).astype(np.uint8)


_TABLES = (_deletable(second=False), _deletable(second=True))
#: Weight of each neighbour in the index into a table.
_BITS = np.float32([[128, 1, 2], [64, 0, 4], [32, 16, 8]])


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin a mask (H, W) to one-pixel lines with the same connectivity; return bool.

    Algorithm A1 of Guo and Hall, Communications of the ACM 32(3), 1989. Unlike Zhang and Suen's, it
    does not delete 2 x 2 squares and diagonal lines two pixels wide.
    """
    image, before = np.asarray(mask, bool).astype(np.uint8), None
    while before is None or not np.array_equal(image, before):
        before = image
        for table in _TABLES:
            code = cv2.filter2D(image, cv2.CV_8U, _BITS, borderType=cv2.BORDER_CONSTANT)
            image = image & ~table[code]
    return image.astype(bool)


def borders(classes: np.ndarray) -> np.ndarray:
    """Return one-pixel lines (H, W), bool, where the class changes: nonzero Laplacian, thinned."""
    # Thinning shortens the ends of lines: pad so that those are outside the image.
    padded = np.pad(classes.astype(np.float32), _MARGIN, mode="edge")
    return thin(cv2.Laplacian(padded, cv2.CV_32F) != 0)[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
