"""Surface normals in the camera frame: x right, y up, z towards the camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import LabelSpec, channels_first, read_label
from vmt_mm.tasks.task import Task
from vmt_mm.tasks.warps import BatchWarp, Warp

#: At least this share of a pixel's interpolation weight must come from valid neighbours.
_MIN_VALID = 0.5
#: What 8 bits, and a mean of neighbours that differ little, make of a unit vector's length.
_LENGTH_TOLERANCE = 0.05
#: Component of a vector by its code in a file.
_COMPONENT = np.arange(256, dtype=np.float32) * (2 / 255) - 1
#: Pixels that are computed with at a time.
_STRIP_PIXELS = 1 << 14


class NormalMap(LabelSpec):
    """RGB file with n = 2 v / 255 - 1; in memory unit vectors, (0, 0, 0) where there is none."""

    fill = 0

    def check_file(self, path: str | Path) -> None:
        """Raise InputError if vectors are not of unit length: decoding makes them so, silently."""
        values = self.read(path)
        normals = values[values.any(axis=-1)].astype(np.float32) * (2 / 255) - 1
        length = np.linalg.norm(normals, axis=-1)
        wrong = np.abs(length - 1) > _LENGTH_TOLERANCE
        if wrong.any():
            raise InputError(
                f"{path}: {wrong.mean():.1%} of the normals are not of unit length, they reach "
                f"from {length.min():.2f} to {length.max():.2f}; expected n = 2 v / 255 - 1"
            )

    def read(self, path: str | Path) -> np.ndarray:
        """Read codes (H, W, 3), uint8; raise InputError if none is valid."""
        values = read_label(path, "8-bit RGB surface normals", np.uint8, channels=3)
        if not values.any():
            raise InputError(
                f"{path}: no pixel has a normal; an image without a label has no file of it"
            )
        return values

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Unit vectors (H, W, 3), float32."""
        return _unit_vectors(values, lambda p: ([cv2.LUT(c, _COMPONENT) for c in p], _any(p)))

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Vectors (3, H, W) to an RGB image (H, W, 3), uint8."""
        vectors = values.transpose(1, 2, 0).astype(np.float32)
        normals = _unit_vectors(vectors, lambda p: (p, _any(p)))
        image = np.rint(np.clip((normals + 1) * 127.5, 0, 255)).astype(np.uint8)
        image[~normals.any(axis=-1)] = 0
        return image

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
    source: np.ndarray, vectors: Callable[[np.ndarray], tuple[Sequence[np.ndarray], np.ndarray]]
) -> np.ndarray:
    """Make unit vectors of an array.

    Args:
        source: (H, W, C).
        vectors: gives for a strip's channels, C planes, the three components of vectors and
            a mask of those to keep; the others become (0, 0, 0).

    Returns:
        (H, W, 3) float32 that lies in planes in memory, as the tensor will.
    """
    planes = np.empty((3, *source.shape[:2]), np.float32)
    for rows in _strips(source.shape):
        (x, y, z), keep = vectors(channels_first(source[rows]))
        length = np.maximum(np.sqrt(x * x + y * y + z * z), 1e-12)
        bits = np.negative(keep, dtype=np.int32, casting="unsafe")  # all of them where to keep
        for plane, component in zip(planes[:, rows], (x, y, z), strict=True):
            np.divide(component, length, out=plane)
            np.bitwise_and(plane.view(np.int32), bits, out=plane.view(np.int32))
    return planes.transpose(1, 2, 0)


def _interpolate(label: np.ndarray, resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample (H, W, 3), leaving invalid neighbours out, and re-normalise."""
    planes = channels_first(label)
    with_weight = cv2.merge([*planes, _any(planes).astype(np.float32)])
    # Invalid vectors are zero and so add nothing; the length of the sum does not matter.
    return _unit_vectors(resample(with_weight), lambda p: (p[:3], p[3] >= _MIN_VALID))


@TASKS.register_module()
class Normals(Task):
    """Surface normals: L1 between unit vectors; angular error."""

    primary_metric = "mErr"
    higher_is_better = False
    out_channels = 3
    label = NormalMap()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """L1 between the normalised prediction and the target, mean over the valid elements."""
        valid = self.label.valid(target)
        difference = (F.normalize(logits, dim=1) - target).abs() * valid
        return difference.sum() / (3 * valid.sum()).clamp(min=1)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Unit vectors, (N, 3, H, W)."""
        return F.normalize(logits, dim=1)

    def to_scores(self, logits: Tensor) -> Tensor:
        """Unit vectors: a prediction counts by its direction alone."""
        return self.to_prediction(logits)

    def metric(self) -> dict:
        """Angles in degrees."""
        return dict(type="NormalsMetric", task=self.name)

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """The usual colours of normals, as in the files; black = none."""
        return self.label.encode(values)

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Colours of the main directions."""
        return [
            ("right", (255, 128, 128)),
            ("up", (128, 255, 128)),
            ("to camera", (128, 128, 255)),
        ]
