"""Label files of surface normals; in memory x right, y up, z towards the camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.tasks.label_counts import LabelCounts
from vmt_mm.tasks.labels import LabelSpec, channels_first
from vmt_mm.tasks.warps import BatchWarp, Warp
from vmt_mm.utils.label_decoding import read_stored
from vmt_mm.utils.label_files import FLOATS, LOSSY, with_channels
from vmt_mm.utils.normal_frames import FRAMES, components, parse_frame, turned_frame

#: At least this share of a pixel's interpolation weight must come from valid neighbours.
_MIN_VALID = 0.5
#: What 8 bits, and a mean of neighbours that differ little, make of a unit vector's length.
_LENGTH_TOLERANCE = 0.05
#: Lengths that nearly all vectors of a file do not have if it is one of vectors, and what that is.
_FAR_OFF, _NEARLY_ALL = 0.2, 0.75
#: Pixels of a file that are looked at for this.
_SAMPLED = 1024
#: Shorter vectors have no direction to speak of: grey.
_SHORTEST = 0.1
#: Code of a pixel without a normal by its colour.
_NONE = dict(black=0, grey=128)
#: Component of a vector by its code in a file of 8 bits.
_COMPONENT = np.arange(256, dtype=np.float32) * (2 / 255) - 1
#: Vertical component of steep normals, the share of pixels that must have such ones to prove
#: anything, and the share of these that must point down.
_STEEP, _ENOUGH, _MOSTLY = 0.7, 0.02, 0.8
#: Least component of what points to a side; shares of pixels that face away from the camera, and
#: to the same side, if x and z are swapped.
_ASIDE, _SWAPPED, _NEARLY = 0.1, 0.1, 0.9
#: Pixels that are computed with at a time.
_STRIP_PIXELS = 1 << 14


class NormalMap(LabelSpec):
    """RGB file with n = 2 v / 255 - 1, or of vectors; in memory unit vectors, (0, 0, 0) for none.

    Files are RGB images of 8 or 16 bits, or floating-point components in -1..1 (.npy, TIFF, EXR).
    Black and grey pixels, zeros and what is not a number are no normal. In memory vectors are in
    the project's frame, whatever that of the files, so that geometry and losses are right for all.

    Args:
        frame: of the files: a name or axes, see :func:`~vmt_mm.utils.normal_frames.parse_frame`.
        none: 'black' or 'grey', how files that are written show a pixel without a normal.
    """

    fill = 0
    suffixes = (".png", *FLOATS, *LOSSY)

    def __init__(self, frame: str = "opengl", none: str = "black") -> None:
        if none not in _NONE:
            raise InputError(f"none must be one of {tuple(_NONE)}, got {none!r}")
        self.axes = parse_frame(frame)
        self.none = none

    def check_file(self, path: str | Path, share: float = 0.0) -> None:
        """Raise InputError if vectors are not of unit length: decoding makes them so, silently."""
        _check_lengths(self.read(path), _LENGTH_TOLERANCE, share, path)

    def read(self, path: str | Path) -> np.ndarray:
        """Read codes or components (H, W, 3), uint8, uint16 or float32.

        Raises:
            InputError: if no pixel has a normal, or nearly none has one of unit length.
        """
        rule = "surface normals in three channels: RGB of 8 or 16 bits, or components in -1..1"
        stored = read_stored(path, rule)
        values = with_channels(stored.values, 3, path, rule)
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=-1, keepdims=True)
            values = np.where(finite, values, 0).astype(np.float32, copy=False)
        elif stored.palette is not None or values.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path}: expected {rule}, got {values.dtype}")
        step = max(1, round((values.shape[0] * values.shape[1] / _SAMPLED) ** 0.5))
        sample = values[::step, ::step]
        # Without a negative component they may be (n + 1) / 2, of which some are nearly units.
        shifted = values.dtype.kind == "f" and sample.min() >= 0
        _check_lengths(sample, _LENGTH_TOLERANCE if shifted else _FAR_OFF, _NEARLY_ALL, path)
        if not (_lengths(sample).size or _lengths(values).size):
            raise InputError(
                f"{path}: no pixel has a normal; an image without a label has no file of it"
            )
        return values

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Unit vectors (H, W, 3), float32."""
        order, signs = components(self.axes)

        def vectors(planes: Sequence[np.ndarray]) -> tuple[Sequence[np.ndarray], np.ndarray]:
            pairs = zip(order, signs, strict=True)
            return [_component(planes[index], sign) for index, sign in pairs], _any(planes)

        return _unit_vectors(values, vectors, _SHORTEST)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Vectors (3, H, W) to an RGB image (H, W, 3), uint8, in the frame of the files."""
        return encode_normals(values, self.axes, _NONE[self.none])

    def count(self, label: np.ndarray) -> LabelCounts:
        """Count where normals point."""
        counts = super().count(label)
        x, y, z = label[..., 0], label[..., 1], label[..., 2]
        counts.facts.update(
            left=int((x < -_ASIDE).sum()), right=int((x > _ASIDE).sum()), away=int((z < 0).sum()),
            up=int((y > _STEEP).sum()), down=int((y < -_STEEP).sum()),
        )  # fmt: skip
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Normals that face away from the camera, or down where floors and tables face up."""
        found = super().find_suspicion(counts)
        aside = max(counts.facts["left"], counts.facts["right"])
        if counts.facts["away"] > _SWAPPED * counts.valid and aside > _NEARLY * counts.valid:
            fits = self.axes.translate(str.maketrans("xz", "zx"))
            return [
                *found,
                f"{counts.facts['away'] / counts.valid:.0%} of the normals face away from the "
                "camera and nearly all to one side: red and blue are probably swapped (BGR); "
                f"frame={fits!r} on the task takes them so",
            ]
        up, down, away = (counts.facts[name] for name in ("up", "down", "away"))
        turned_z = 2 * away > counts.valid
        turned_y = up + down > _ENOUGH * counts.valid and down > _MOSTLY * (up + down)
        if counts.valid and (turned_y or turned_z):
            seen = [f"{away / counts.valid:.0%} face away from the camera"] * turned_z
            seen += [f"{down / (up + down or 1):.0%} of the steep ones point down"] * turned_y
            # In most frames with z into the scene y points down: so it is if nothing speaks for up.
            fits = turned_frame(self.axes, (False, turned_y or (turned_z and down >= up), turned_z))
            found.append(
                f"of the normals {' and '.join(seen)}: the files have another frame, probably "
                f"frame={fits!r}; set it on the task"
            )
        return found

    def valid(self, target: Tensor) -> Tensor:
        """Pixels with a normal, (N, 1, H, W)."""
        return (target != 0).any(dim=1, keepdim=True)

    def resize(self, label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Interpolate the valid neighbours and re-normalise."""
        return _interpolate(
            label, lambda x: cv2.resize(x, size[::-1], interpolation=cv2.INTER_LINEAR)
        )

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """Interpolate the valid neighbours, let vectors follow flip and rotation, re-normalise."""
        weighted = torch.cat([labels, self.valid(labels).to(labels.dtype)], dim=1)
        x, y, z, weight = warp.linear(weighted).split(1, dim=1)
        x = torch.where(warp.flip, -x, x)
        vectors = torch.cat([warp.cos * x - warp.sin * y, warp.sin * x + warp.cos * y, z], dim=1)
        return torch.where(weight >= _MIN_VALID, F.normalize(vectors, dim=1), 0)

    def _resample(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        return _interpolate(label, lambda x: warp.apply(x, cv2.INTER_LINEAR, 0))

    def _flip_values(self, label: np.ndarray) -> np.ndarray:
        label[..., 0] *= -1
        return label

    def _rotate_values(self, label: np.ndarray, angle: float) -> np.ndarray:
        sin, cos = np.float32(np.sin(np.deg2rad(angle))), np.float32(np.cos(np.deg2rad(angle)))
        for rows in _strips(label.shape):
            x, y = label[rows, :, 0], label[rows, :, 1]
            rotated = cos * x - sin * y
            y *= cos
            y += sin * x
            x[...] = rotated
        return label


# Vectors are handled as planes (H, W), on which NumPy is several times as fast as along an axis of
# three, and strip by strip, so that what lies between two steps stays in the processor's cache.


def _strips(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges of rows that together make up an array (H, W, ...)."""
    rows = max(1, _STRIP_PIXELS // shape[1])
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def _any(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Where a vector is not zero, (H, W) bool."""
    return np.logical_or(np.logical_or(planes[0], planes[1]), planes[2])


def _unit_vectors(
    source: np.ndarray,
    vectors: Callable[[np.ndarray], tuple[Sequence[np.ndarray], np.ndarray]],
    shortest: float | None = None,
) -> np.ndarray:
    """Make unit vectors of an array.

    Args:
        source: (H, W, C).
        vectors: gives for a strip's channels, C planes, the three components of vectors and
            a mask of those to keep; the others become (0, 0, 0).
        shortest: vectors must be longer to be kept; None keeps any.

    Returns:
        (H, W, 3) float32 that lies in planes in memory, as the tensor will.
    """
    planes = np.empty((3, *source.shape[:2]), np.float32)
    for rows in _strips(source.shape):
        (x, y, z), keep = vectors(channels_first(source[rows]))
        length = np.maximum(np.sqrt(x * x + y * y + z * z), 1e-12)
        if shortest is not None:
            keep = np.logical_and(keep, length > shortest, out=keep)
        bits = np.negative(keep, dtype=np.int32, casting="unsafe")  # all of them where to keep
        for plane, component in zip(planes[:, rows], (x, y, z), strict=True):
            np.divide(component, length, out=plane)
            np.bitwise_and(plane.view(np.int32), bits, out=plane.view(np.int32))
    return planes.transpose(1, 2, 0)


def _component(plane: np.ndarray, sign: int) -> np.ndarray:
    """A component of vectors of its codes, or of itself, (H, W) float32."""
    if plane.dtype == np.uint8:
        return cv2.LUT(plane, _COMPONENT * np.float32(sign))
    if plane.dtype == np.uint16:
        plane = plane.astype(np.float32) * np.float32(2 / 65535) - 1
    return plane if sign > 0 else -plane


def encode_normals(values: np.ndarray, axes: str = FRAMES["opengl"], none: int = 0) -> np.ndarray:
    """Vectors (3, H, W) as an RGB image (H, W, 3), uint8, in the frame of ``axes``."""
    vectors = values.transpose(1, 2, 0).astype(np.float32)
    normals = _unit_vectors(vectors, lambda p: (p, _any(p)))
    turned = np.empty_like(normals)
    order, signs = components(axes)
    turned[..., order] = normals * np.float32(signs)
    image = np.rint(np.clip((turned + 1) * 127.5, 0, 255)).astype(np.uint8)
    image[~normals.any(axis=-1)] = none
    return image


def _lengths(values: np.ndarray) -> np.ndarray:
    """Lengths (n,) of a file's vectors that are a normal, right or wrong."""
    if values.dtype.kind == "f":
        vectors = values
    else:
        codes = values[values.any(axis=-1)]
        vectors = codes.astype(np.float32) * (2 / np.iinfo(codes.dtype).max) - 1
    length = np.linalg.norm(vectors, axis=-1)
    return length[length > _SHORTEST]


def _check_lengths(values: np.ndarray, tolerance: float, share: float, path: str | Path) -> None:
    """Raise InputError if more than a share of a file's vectors is not of unit length."""
    length = _lengths(values)
    wrong = np.abs(length - 1) > tolerance
    if length.size and wrong.mean() > share:
        code = "components of unit vectors in -1..1"
        if values.dtype.kind != "f":
            code = f"n = 2 v / {np.iinfo(values.dtype).max} - 1"
        raise InputError(
            f"{path}: {wrong.mean():.1%} of the normals are not of unit length, they reach "
            f"from {length.min():.2f} to {length.max():.2f}; expected {code}, and black or zeros "
            "where there is no normal"
        )


def _interpolate(label: np.ndarray, resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample (H, W, 3), leaving invalid neighbours out, and re-normalise."""
    planes = channels_first(label)
    with_weight = cv2.merge([*planes, _any(planes).astype(np.float32)])
    # Invalid vectors are zero and so add nothing; the length of the sum does not matter.
    return _unit_vectors(resample(with_weight), lambda p: (p[:3], p[3] >= _MIN_VALID))
