"""Depth along the optical axis, in metres."""

import math
import warnings
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import LabelCounts, LabelSpec
from vmt_mm.tasks.task import Key, Task
from vmt_mm.tasks.warps import Geometry
from vmt_mm.utils.label_files import FLOATS, LOSSY, read_stored, with_channels

_PER_METRE, _MOST = 1000, 65535  # integer files: values per metre, largest value
#: Colour scale: metres at the far end without `max_depth`, far over near end, darkest colour, which
#: differs from the black of pixels without depth.
_DRAWN, _RATIO, _DARKEST = 10.0, 20, 30
_FINE = 100  # least file values per metre for which predictions are written as integers
#: Depths in metres outside of which a value is suspect, and the tolerated shares of such pixels.
_NEAR, _FAR, _SHARES = 0.05, 500.0, dict(near=0.5, far=0.01, most=0.01)


class DepthMap(LabelSpec):
    """Depth in metres; 0 means no label. Negative, infinite and NaN values in files become 0.

    Labels are valid above ``min_depth`` and below ``max_depth``, both in metres and exclusive.
    """

    fill = 0
    suffixes = (".png", *FLOATS, *LOSSY)

    def __init__(
        self,
        zoom_divides: bool = False,
        scale: float | None = None,
        min_depth: float | None = None,
        max_depth: float | None = None,
    ) -> None:
        if scale is not None and not (isinstance(scale, (int, float)) and 0 < scale < inf):
            raise InputError(f"`scale` must be a positive number (values per metre), got {scale!r}")
        self.zoom_divides, self.scale, self._unit = zoom_divides, scale, scale or _PER_METRE
        self.least, self.most = (None if x is None else float(x) for x in (min_depth, max_depth))
        if not 0 <= (self.least or 0) < (inf if self.most is None else self.most):
            rule = "`min_depth` and `max_depth` must be metres with 0 <= min_depth < max_depth"
            raise InputError(f"{rule}, got {min_depth!r} and {max_depth!r}")

    @property
    def suffix(self) -> str:
        """'.tiff' (float32) if labels are float files or integers are too coarse, else '.png'."""
        are_floats = len(self.suffixes) == 1 and self.suffixes[0].lower().endswith(FLOATS)
        return ".tiff" if are_floats or self._unit < _FINE else ".png"

    def read(self, path: str | Path) -> np.ndarray:
        """Read raw values (H, W), unsigned integers or float32; negative integers become 0."""
        rule = "16-bit depth in millimetres in one channel, or floating-point depth in metres"
        values, palette = read_stored(path, rule)
        values = with_channels(values, 1, path, rule)
        if values.dtype.kind == "f":
            return values.astype(np.float32, copy=False)
        if palette is not None:
            found = "a palette image, whose values are colour indices; export it without a palette"
            raise InputError(f"{path}: expected {rule}, got {found}")
        if values.dtype.itemsize == 1 and self.scale is None:
            hint = "if these are depths, set the task's `scale` to their values per metre"
            raise InputError(f"{path}: expected {rule}, got 8-bit integers; {hint}")
        return values if values.dtype.kind == "u" else values.clip(min=0).astype(np.uint32)

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Convert raw values to metres, (H, W) float32; invalid depths become 0."""
        scale = self.scale or (1 if values.dtype.kind == "f" else _PER_METRE)
        metres = values.astype(np.float32) / np.float32(scale)
        metres[~((metres > 0) & (metres < np.inf))] = 0  # NaN, too
        return metres

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Convert metres (1, H, W) to an image (H, W): uint16, or float32 for a '.tiff'."""
        if self.suffix != ".png":
            return values[0].astype(np.float32) * np.float32(self.scale or 1)
        scaled = values[0] * self._unit
        if scaled.max(initial=0) > _MOST + 0.5:
            said = f"depths above {_MOST / self._unit:g} m are clipped; if labels are .tiff, set "
            warnings.warn(f"{said}suffix='.tiff' on the task to write floats", stacklevel=2)
        return np.rint(np.clip(scaled, 0, _MOST)).astype(np.uint16)

    def count(self, label: np.ndarray) -> LabelCounts:
        """Also count implausible depths."""
        counts, most = super().count(label), np.float32(_MOST) / np.float32(self._unit)
        tests = dict(near=(label > 0) & (label < _NEAR), far=label > _FAR, most=label == most)
        counts.facts.update({name: int(found.sum()) for name, found in tests.items()})
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Also report depths in another unit, and depths that were clipped to 16 bits."""
        rules = dict(
            near=f"below {_NEAR:g} m: set the task's `scale` to the files' values per metre",
            far=f"above {_FAR:g} m: set the task's `scale` to 1000 if files are in millimetres; "
            "write 0 for pixels without depth",
            most=f"{_MOST / self._unit:g} m, the 16-bit maximum: larger depths were clipped; "
            "write 0 for pixels without depth",
        )
        return super().find_suspicion(counts) + [
            f"{counts.facts[name] / counts.valid:.0%} of the depths are {rule}"
            for name, rule in rules.items()
            if counts.facts[name] > _SHARES[name] * counts.valid
        ]

    def valid(self, target: Tensor) -> Tensor:
        """Mask (N, 1, H, W) of the labelled depths within the limits."""
        valid = super().valid(target)
        valid = valid if self.least is None else valid & (target > self.least)
        return valid if self.most is None else valid & (target < self.most)

    def transform_values(self, labels: Tensor, geometry: Geometry) -> Tensor:
        """Divide depths by the zoom factor if ``zoom_divides``."""
        return labels / geometry.scale if self.zoom_divides else labels


@TASKS.register_module()
class Depth(Task):
    """Metric depth estimation: L1 loss in metres, evaluated by the root mean square error.

    Args:
        zoom_divides: divide labels by the zoom of an augmentation, as if the camera moved closer.
        min_depth: labels up to so many metres do not count in training and evaluation.
        max_depth: neither do labels from so many metres on, the far end of the colour scale of
            drawings; None: no limit, and a scale of 10 m.
        scale: values per metre in label files; None means 1000 for integers and 1 for floats.
        crop: part of the image that is evaluated, see :class:`~vmt_mm.evaluation.DepthMetric`.
    """

    primary_metric = "rmse"
    label: DepthMap
    default_loss = dict(type="DepthL1")
    content = "depth"
    out_channels = 1

    def __init__(
        self,
        name: str,
        zoom_divides: bool = False,
        max_depth: float | None = None,
        scale: float | None = None,
        min_depth: float | None = None,
        crop: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.label = DepthMap(zoom_divides, scale, min_depth, max_depth)
        self.options = dict(min_depth=min_depth, max_depth=max_depth, crop=crop)
        super().__init__(name, **kwargs)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Clamp logits to depths >= 0 in metres, (N, 1, H, W)."""
        return logits.clamp(min=0)

    def metric(self) -> dict:
        """Config of :class:`~vmt_mm.evaluation.DepthMetric`."""
        return dict(type="DepthMetric", task=self.name, **self.options)

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw near pixels bright, far ones dark, by their logarithm; black means no depth."""
        share = np.clip(values[0] / (self.label.most or _DRAWN), 1 / _RATIO, 1)
        codes = _DARKEST - (255 - _DARKEST) * np.log(share) / math.log(_RATIO)
        image = cv2.applyColorMap(codes.astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
        return image * (values[0] > 0)[..., None]

    def key(self, meta: Mapping) -> Key:
        """Return the colour scale, with depths in metres."""
        far, ratios = self.label.most or _DRAWN, (20, 10, 5, 2, 1)
        bar = self.draw(np.tile(far * np.geomspace(1 / _RATIO, 1, 512), (1, 32, 1)), meta)
        places = [(1 - math.log(ratio, _RATIO), 1.7) for ratio in ratios]
        texts = [*(f"{far / ratio:.3g}" for ratio in ratios[:-1]), f"{far:.3g} m"]
        return bar, [(*place, text) for place, text in zip(places, texts, strict=True)]
