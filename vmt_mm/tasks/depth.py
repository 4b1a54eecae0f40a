"""Depth along the optical axis, in metres."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from vmt_mm.registry import TASKS
from vmt_mm.tasks.labels import LabelSpec, read_label
from vmt_mm.tasks.task import Task
from vmt_mm.tasks.warps import BatchWarp


class DepthMap(LabelSpec):
    """16-bit file in millimetres; in memory metres, 0 where there is none.

    Surfaces are never blended across an edge: every pixel keeps the depth of one source pixel.

    Args:
        zoom_divides: divide depth by the zoom, as if the camera had moved nearer; by default a
            zoom is a change of focal length and leaves depth alone.
    """

    fill = 0

    def __init__(self, zoom_divides: bool = False) -> None:
        self.zoom_divides = zoom_divides

    def read(self, path: str | Path) -> np.ndarray:
        """Read millimetres (H, W), uint16."""
        return read_label(path, "16-bit depth in millimetres in one channel", np.uint16)

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Metres (H, W), float32."""
        return values.astype(np.float32) / 1000

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Metres (1, H, W) to an image (H, W), uint16 millimetres."""
        return np.rint(np.clip(values[0] * 1000, 0, 65535)).astype(np.uint16)

    def warp_batch(self, labels: Tensor, warp: BatchWarp) -> Tensor:
        """Every pixel keeps one source pixel's depth, divided as :meth:`zoom_values` does."""
        labels = super().warp_batch(labels, warp)
        return labels / warp.scale if self.zoom_divides else labels

    def zoom_values(self, label: np.ndarray, scale: float) -> np.ndarray:
        """Divide by the zoom where ``zoom_divides`` says so."""
        return label / np.float32(scale) if self.zoom_divides else label


@TASKS.register_module()
class Depth(Task):
    """Metric depth: L1; root mean square error.

    Args:
        name: see :class:`Task`.
        loss_weight: see :class:`Task`.
        zoom_divides: see :class:`DepthMap`.
        max_depth: metres that are drawn as the far end of the colour scale.
        kwargs: ``suffix``, see :class:`Task`.
    """

    primary_metric = "rmse"
    higher_is_better = False
    out_channels = 1

    def __init__(
        self,
        name: str,
        loss_weight: float = 1.0,
        zoom_divides: bool = False,
        max_depth: float = 10.0,
        **kwargs: Any,
    ) -> None:
        self.label = DepthMap(zoom_divides)
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
