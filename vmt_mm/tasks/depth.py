"""Depth along the optical axis, in metres."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from math import inf
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.logging import print_log
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks.label_counts import LabelCounts
from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.task import Task, of_task
from vmt_mm.tasks.warps import BatchWarp
from vmt_mm.utils.label_decoding import read_stored
from vmt_mm.utils.label_files import FLOATS, LOSSY, with_channels

#: File values per metre of whole numbers, and the most that 16 bits hold.
_PER_METRE, _MOST = 1000, 65535
#: File values per metre of centimetres.
_FINE = 100
#: Metres below and above which most depths of a data set hardly lie.
_NEAR, _FAR = 0.05, 500.0
#: Share of pixels with the largest value that is no accident.
_MUCH = 0.01


class DepthMap(LabelSpec):
    """Depth in files of whole or floating-point numbers; in memory metres, 0 where there is none.

    0, negative, infinite numbers and what is not a number are no depth. Surfaces are never blended
    across an edge: every pixel keeps the depth of one source pixel.

    Args:
        zoom_divides: divide depth by the zoom, as if the camera had moved nearer; by default a
            zoom is a change of focal length and leaves depth alone.
        scale: file values per metre; None takes 1000 for files of whole numbers (millimetres) and
            1 for floating-point numbers (metres).
    """

    fill = 0
    suffixes = (".png", *FLOATS, *LOSSY)

    def __init__(self, zoom_divides: bool = False, scale: float | None = None) -> None:
        if scale is not None and not (isinstance(scale, (int, float)) and 0 < scale < inf):
            raise InputError(f"scale must be file values per metre, above 0, got {scale!r}")
        self.zoom_divides = zoom_divides
        self.scale = scale

    @property
    def suffix(self) -> str:
        """'.tiff', with floating-point numbers, where labels are such files by their ending, or
        where whole numbers would be coarser than a centimetre; else '.png'.
        """
        only_floats = len(self.suffixes) == 1 and self.suffixes[0].lower().endswith(FLOATS)
        return ".tiff" if only_floats or (self.scale or _PER_METRE) < _FINE else ".png"

    def read(self, path: str | Path) -> np.ndarray:
        """Read values (H, W), unsigned integers or float32, as the file has them."""
        rule = "16-bit depth in millimetres in one channel, or metres as floating-point numbers"
        stored = read_stored(path, rule)
        values = with_channels(stored.values, 1, path, rule)
        if values.dtype.kind == "f":
            return values.astype(np.float32, copy=False)
        if stored.palette is not None or (stored.bits <= 8 and self.scale is None):
            raise InputError(
                f"{path}: expected {rule}, got {stored.bits} bits; if they hold depth indeed, set "
                "`scale` of the task to their values per metre"
            )
        if values.dtype.kind == "i":
            values = values.clip(min=0).astype(np.uint32)
        return values

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Metres (H, W), float32."""
        if values.dtype.kind == "f":
            metres = values / np.float32(self.scale or 1)
            metres[~((metres > 0) & (metres < np.inf))] = 0  # NaN, too
            return metres
        return values.astype(np.float32) / np.float32(self.scale or _PER_METRE)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Metres (1, H, W) to an image (H, W): uint16, or float32 where ``suffix`` is '.tiff'.

        More than 16 bits hold is written as the most that they do, with a warning.
        """
        if self.suffix != ".png":
            return values[0].astype(np.float32) * np.float32(self.scale or 1)
        scaled = values[0] * (self.scale or _PER_METRE)
        if scaled.max(initial=0) > _MOST + 0.5:
            _warn_of_clipping(_MOST / (self.scale or _PER_METRE))
        return np.rint(np.clip(scaled, 0, _MOST)).astype(np.uint16)

    def count(self, label: np.ndarray) -> LabelCounts:
        """Count depths that are hardly any, and those at the end of what 16 bits hold."""
        counts = super().count(label)
        most = np.float32(_MOST) / np.float32(self.scale or _PER_METRE)
        counts.facts.update(
            near=int(((label > 0) & (label < _NEAR)).sum()),
            far=int((label > _FAR).sum()),
            most=int((label == most).sum()),
        )
        return counts

    def find_suspicion(self, counts: LabelCounts) -> list[str]:
        """Depths of another unit, and such that did not fit into 16 bits."""
        found = super().find_suspicion(counts)
        for fact, most, rule in (
            ("near", 0.5, f"below {_NEAR:g} m: set `scale` of the task to the files' values per "
             "metre"),
            ("far", _MUCH, f"above {_FAR:g} m: set `scale`=1000 of the task if files hold "
             "millimetres; write 0 where such a value means none"),
        ):  # fmt: skip
            if counts.facts[fact] > most * counts.valid:
                found.append(f"{counts.facts[fact] / counts.valid:.0%} of the depths are {rule}")
        share = counts.facts["most"] / max(counts.valid, 1)
        if share > _MUCH:
            found.append(
                f"{share:.0%} of the depths are {_MOST / (self.scale or _PER_METRE):g} m, the most "
                "that 16 bits hold: depth beyond was cut off, or they mean none and should be 0"
            )
        return found

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """Every pixel keeps one source pixel's depth, divided as :meth:`zoom_values` does."""
        labels = super().warp_batch(labels, warp)
        return labels / warp.scale if self.zoom_divides else labels

    def zoom_values(self, label: np.ndarray, scale: float) -> np.ndarray:
        """Divide by the zoom where ``zoom_divides`` says so."""
        return label / np.float32(scale) if self.zoom_divides else label


@cache
def _warn_of_clipping(most: float) -> None:
    """Say once that depth is written smaller than it is."""
    print_log(
        f"depth above {most:g} m is written as {most:g} m, the most that 16-bit files hold; for "
        "more set suffix='.tiff' (or '.npy', ...) on the task if its labels are such files of "
        "metres: predictions are then TIFF files of floating-point numbers; or a smaller `scale` "
        "if labels have another one",
        "current",
        logging.WARNING,
    )


@TASKS.register_module()
class Depth(Task):
    """Metric depth: L1; root mean square error.

    Args:
        name: see :class:`Task`.
        loss_weight: see :class:`Task`.
        zoom_divides: see :class:`DepthMap`.
        max_depth: metres that are drawn as the far end of the colour scale.
        scale: of the label files, see :class:`DepthMap`.
        kwargs: ``suffix``, see :class:`Task`.
    """

    primary_metric = "rmse"
    out_channels = 1

    def __init__(
        self,
        name: str,
        loss_weight: float = 1.0,
        zoom_divides: bool = False,
        max_depth: float = 10.0,
        scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        with of_task(name):
            self.label = DepthMap(zoom_divides, scale)
        super().__init__(name, loss_weight, **kwargs)
        self.max_depth = max_depth

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """L1 in metres, mean over the valid pixels."""
        valid = self.label.valid(target)
        return ((logits - target).abs() * valid).sum() / valid.sum().clamp(min=1)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Metres, (N, 1, H, W), never negative."""
        return logits.clamp(min=0)

    def metric(self) -> dict:
        """Errors in metres and ratios."""
        return dict(type="DepthMetric", task=self.name)

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Near bright, far dark, none black."""
        near = np.clip(1 - values[0] / self.max_depth, 0, 1)
        image = cv2.applyColorMap(np.uint8(near * 255), cv2.COLORMAP_INFERNO)[..., ::-1]
        return image * (values[0] > 0)[..., None]
