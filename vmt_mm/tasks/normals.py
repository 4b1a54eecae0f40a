"""Surface normals in the camera frame: x right, y up, z towards the camera."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import LabelCounts, LabelSpec, channels_first
from vmt_mm.tasks.task import Key, Task
from vmt_mm.tasks.warps import BatchWarp, Geometry, Warp
from vmt_mm.utils import normal_frames as frames
from vmt_mm.utils.label_files import FLOATS, LOSSY, read_stored, with_channels

_MIN_VALID = 0.5  # least share of the interpolation weight on valid neighbours
#: Deviation of a unit vector's length due to 8-bit rounding; a file does not contain normals if
#: nearly all sampled vectors deviate by more than _FAR_OFF. Below _SHORTEST: grey, no normal.
_TOLERANCE, _FAR_OFF, _NEARLY_ALL, _SAMPLED, _SHORTEST = 0.05, 0.2, 0.75, 1024, 0.1
_NONE = dict(black=0, grey=128)
#: Vertical component of steep normals, the share of steep pixels that a judgement needs, and the
#: share of these that must point down.
_STEEP, _ENOUGH, _MOSTLY = 0.7, 0.02, 0.8
#: If x and z are swapped: least sideways component, shares of pixels facing away and to one side.
_ASIDE, _SWAPPED, _NEARLY = 0.1, 0.1, 0.9


class NormalMap(LabelSpec):
    """Surface normals: RGB files, n = 2 v / 255 - 1 (or 65535), or files of float components.

    In memory: unit vectors (H, W, 3) float32 in the project's frame, whatever the frame of the
    files, and (0, 0, 0) without a normal (black and grey pixels, zeros and NaN in files).
    """

    fill = 0
    suffixes = (".png", *FLOATS, *LOSSY)

    def __init__(self, frame: str = "opengl", none: str = "black") -> None:
        if none not in _NONE:
            raise InputError(f"`none` must be one of {tuple(_NONE)}, got {none!r}")
        self.axes = frames.parse_frame(frame)
        self.none = none

    def check_file(self, path: str | Path, share: float = 0.0) -> None:
        """Raise InputError if vectors do not have unit length; ``decode`` normalises silently."""
        _check_lengths(self.read(path), _TOLERANCE, share, path)

    def read(self, path: str | Path) -> np.ndarray:
        """Read raw values (H, W, 3), uint8, uint16 or float32; check the vectors' lengths."""
        rule = "surface normals in three channels: RGB of 8 or 16 bits, or components in [-1, 1]"
        values, palette = read_stored(path, rule)
        values = with_channels(values, 3, path, rule)
        if values.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=-1, keepdims=True)
            values = np.where(finite, values, 0).astype(np.float32, copy=False)
        elif palette is not None or values.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path}: expected {rule}, got {values.dtype}")
        step = max(1, round((values.shape[0] * values.shape[1] / _SAMPLED) ** 0.5))
        sample = values[::step, ::step]
        # floats without negatives may be (n + 1) / 2, of which some have nearly unit length
        shifted = values.dtype.kind == "f" and sample.min() >= 0
        _check_lengths(sample, _TOLERANCE if shifted else _FAR_OFF, _NEARLY_ALL, path)
        if not (_lengths(sample).size or _lengths(values).size):
            raise InputError(f"{path}: no pixel has a normal; remove label files without any label")
        return values

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Convert raw values to unit vectors (H, W, 3), float32."""
        planes = channels_first(values)
        vectors = [_components(planes[k]) * np.float32(s) for k, s in frames.components(self.axes)]
        return _units(vectors, np.logical_or.reduce(planes), _SHORTEST)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Convert vectors (3, H, W) to RGB (H, W, 3), uint8, in the frame of the files."""
        planes = values.astype(np.float32)
        known = np.logical_or.reduce(planes)
        image = frames.encode_normals(frames.from_camera_frame(_units(planes, known), self.axes))
        image[~known] = _NONE[self.none]
        return image

    def count(self, label: np.ndarray) -> LabelCounts:
        """Also count the directions of the normals."""
        counts, (x, y, z) = super().count(label), channels_first(label)
        tests = dict(away=z < 0, up=y > _STEEP, down=y < -_STEEP)
        tests |= dict(left=x < -_ASIDE, right=x > _ASIDE)
        counts.facts.update({name: int(found.sum()) for name, found in tests.items()})
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Also report normals that face away from the camera, or point down instead of up."""
        found, valid = super().find_suspicion(counts), counts.valid
        up, down, away, *sides = (counts.facts[k] for k in ("up", "down", "away", "left", "right"))
        turned_z = 2 * away > valid
        turned_y = up + down > _ENOUGH * valid and down > _MOSTLY * (up + down)
        if away > _SWAPPED * valid and max(sides) > _NEARLY * valid:
            said = "nearly all to one side; red and blue are probably swapped (BGR)"
            fits = self.axes.translate(str.maketrans("xz", "zx"))
        elif turned_y or turned_z:
            said = f"{down / (up + down or 1):.0%} of the steep ones point down; the frame is wrong"
            # Frames with z into the scene mostly have y down; assume so unless more point up.
            flips = (False, turned_y or (turned_z and down >= up), turned_z)
            fits = frames.turned_frame(self.axes, flips)
        else:
            return found
        seen = f"{away / valid:.0%} of the normals face away from the camera and {said}"
        return [*found, f"{seen}; set frame={fits!r} on the task"]

    def valid(self, target: Tensor) -> Tensor:
        """Mask (N, 1, H, W) of the pixels with a normal."""
        return (target != 0).any(dim=1, keepdim=True)

    def resize(self, label: np.ndarray, size: tuple[int, int], nearest: bool = False) -> np.ndarray:
        """Resize, interpolating valid neighbours only, and re-normalise."""
        if nearest:
            return super().resize(label, size)
        return _interpolate(label, lambda x: cv2.resize(x, size[::-1]))

    def resample(self, label: np.ndarray, warp: Warp) -> np.ndarray:
        """Resample, interpolating valid neighbours only, and re-normalise."""
        return _interpolate(label, lambda x: warp.apply(x, cv2.INTER_LINEAR, 0))

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """Warp a batch, interpolating valid neighbours only; re-normalise and rotate vectors."""
        weighted = torch.cat([labels, self.valid(labels).to(labels.dtype)], dim=1)
        vectors, weight = warp.linear(weighted).split((3, 1), dim=1)
        vectors = torch.where(weight >= _MIN_VALID, F.normalize(vectors, dim=1), 0)
        return self.transform_values(vectors, warp.geometry)

    def transform_values(self, labels: Tensor, geometry: Geometry) -> Tensor:
        """Mirror x where flipped, and rotate (x, y)."""
        x, y, z = labels.split(1, dim=1)
        x, (_, cos, sin, _) = torch.where(geometry.flip, -x, x), geometry
        return torch.cat([cos * x - sin * y, cos * y + sin * x, z], dim=1)


def _components(codes: np.ndarray) -> np.ndarray:
    """Decode integer codes to vector components, float32; floats are components already."""
    if codes.dtype.kind == "f":
        return codes
    return codes.astype(np.float32) * np.float32(2 / np.iinfo(codes.dtype).max) - 1


def _units(
    vectors: Sequence[np.ndarray] | np.ndarray, keep: np.ndarray, shortest: float = 0.0
) -> np.ndarray:
    """Normalise planes x, y, z to (H, W, 3); 0 outside ``keep`` and up to length ``shortest``."""
    x, y, z = vectors
    length = np.sqrt(x * x + y * y + z * z)
    length = np.where(keep & (length > shortest), length, np.float32(np.inf))
    planes = np.stack([x / length, y / length, z / length]) + 0  # no negative zeros
    return planes.transpose(1, 2, 0)


def _lengths(values: np.ndarray) -> np.ndarray:
    """Lengths (n,) of a file's vectors, leaving out pixels without a normal."""
    length = np.linalg.norm(_components(values[values.any(axis=-1)]), axis=-1)
    return length[length > _SHORTEST]


def _check_lengths(values: np.ndarray, tolerance: float, share: float, path: str | Path) -> None:
    """Raise InputError if more than ``share`` of a file's vectors are not of unit length."""
    length = _lengths(values)
    wrong = np.abs(length - 1) > tolerance
    if length.size and wrong.mean() > share:
        raise InputError(
            f"{path}: {wrong.mean():.1%} of the normals are not of unit length "
            f"(lengths {length.min():.2f} to {length.max():.2f}); expected components in [-1, 1], "
            "or codes v with n = 2 v / 255 - 1 (65535 for 16 bits), and black or 0 without a normal"
        )


def _interpolate(label: np.ndarray, resample: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Resample (H, W, 3), interpolating valid neighbours only, and re-normalise."""
    planes = channels_first(label)
    known = np.logical_or.reduce(planes).astype(np.float32)
    weighted = resample(cv2.merge([planes[0], planes[1], planes[2], known]))
    *vectors, weight = channels_first(weighted)  # invalid vectors are 0 and add nothing
    return _units(vectors, weight >= _MIN_VALID)


@TASKS.register_module()
class Normals(Task):
    """Surface normal estimation: L1 loss between unit vectors, evaluated by the angular error.

    Args:
        frame: coordinate frame of the files, a name such as 'opencv' or axes such as 'x,-y,z', see
            :func:`~vmt_mm.utils.normal_frames.parse_frame`.
        none: 'black' or 'grey', the colour of pixels without a normal in written files.
    """

    primary_metric = "mErr"
    default_loss = dict(type="NormalsL1")
    content = "normals"
    out_channels = 3
    label = NormalMap()

    def __init__(
        self, name: str, frame: str = "opengl", none: str = "black", **kwargs: Any
    ) -> None:
        self.label = NormalMap(frame, none)
        super().__init__(name, **kwargs)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Normalise logits to unit vectors, (N, 3, H, W)."""
        return F.normalize(logits, dim=1)

    to_scores = to_prediction  # only the direction of a prediction counts

    def metric(self) -> dict:
        """Config of :class:`~vmt_mm.evaluation.NormalsMetric`."""
        return dict(type="NormalsMetric", task=self.name)

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw normals as RGB codes in the project's frame; black means no normal."""
        return NormalMap().encode(values)

    def key(self, meta: Mapping) -> Key:
        """Return a ball: the colours of its surface are those of its normals."""
        x, y = np.meshgrid(*[np.linspace(-1, 1, 256, dtype=np.float32)] * 2)
        z = 1 - x * x - y * y
        ball = self.draw(np.stack([x, -y, np.sqrt(z.clip(0))]), meta)
        ball[z < 0] = 255
        sides = [(0.5, -0.11, "up"), (0.5, 1.11, "down"), (-0.25, 0.5, "left"), (1.3, 0.5, "right")]
        return ball, [*sides, (0.5, 0.5, "to camera")]
