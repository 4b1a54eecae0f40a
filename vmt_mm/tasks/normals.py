"""Surface normals in the camera frame: x right, y up, z towards the camera."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import LabelSpec, Warp, read_label
from vmt_mm.tasks.task import Task

#: At least this share of a pixel's interpolation weight must come from valid neighbours.
_MIN_VALID = 0.5
#: What 8 bits, and a mean of neighbours that differ little, make of a unit vector's length.
_LENGTH_TOLERANCE = 0.05


class NormalMap(LabelSpec):
    """RGB file with n = 2 v / 255 - 1; in memory unit vectors, (0, 0, 0) where there is none."""

    fill = 0

    def decode(self, path: str | Path) -> np.ndarray:
        """Read unit vectors (H, W, 3), float32; raise InputError if none is valid."""
        return _normalize(self._read(path))

    def check_file(self, path: str | Path) -> None:
        """Raise InputError if vectors are not of unit length: decoding makes them so, silently."""
        normals = self._read(path)
        length = np.linalg.norm(normals[normals.any(axis=-1)], axis=-1)
        wrong = np.abs(length - 1) > _LENGTH_TOLERANCE
        if wrong.any():
            raise InputError(
                f"{path}: {wrong.mean():.1%} of the normals are not of unit length, they reach "
                f"from {length.min():.2f} to {length.max():.2f}; expected n = 2 v / 255 - 1"
            )

    def _read(self, path: str | Path) -> np.ndarray:
        """The file's vectors, (H, W, 3) float32."""
        values = read_label(path, "8-bit RGB surface normals", np.uint8, channels=3)
        if not values.any():
            raise InputError(
                f"{path}: no pixel has a normal; an image without a label has no file of it"
            )
        normals = values.astype(np.float32) * (2 / 255) - 1
        normals[~values.any(axis=-1)] = 0
        return normals

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Vectors (3, H, W) to an RGB image (H, W, 3), uint8."""
        normals = _normalize(values.transpose(1, 2, 0).astype(np.float32))
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

    def _resample(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        return _interpolate(label, lambda x: warp.apply(x, cv2.INTER_LINEAR, 0))

    def _flip_values(self, label: np.ndarray) -> np.ndarray:
        label[..., 0] *= -1
        return label

    def _rotate_values(self, label: np.ndarray, angle: float) -> np.ndarray:
        sin, cos = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
        rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
        return label @ rotation


def _normalize(normals: np.ndarray) -> np.ndarray:
    """Scale vectors (..., 3) to unit length, zero vectors stay."""
    length = np.sqrt(np.einsum("...c,...c->...", normals, normals))[..., None]
    return normals / np.maximum(length, 1e-12)


def _interpolate(label: np.ndarray, resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample (H, W, 3), leaving invalid neighbours out, and re-normalise."""
    weight = resample(label.any(axis=-1).astype(np.float32))
    # Invalid vectors are zero and so add nothing; the length of the sum does not matter.
    normals = _normalize(resample(label))
    normals[weight < _MIN_VALID] = 0
    return normals


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
