"""Surface normals in the camera frame: x right, y up, z towards the camera."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.registry import TASKS
from vmt_mm.tasks.normal_map import NormalMap, encode_normals
from vmt_mm.tasks.task import Task, of_task


@TASKS.register_module()
class Normals(Task):
    """Surface normals: L1 between unit vectors; angular error.

    Args:
        name: see :class:`Task`.
        loss_weight: see :class:`Task`.
        frame: of the label files, and of predictions that are written, see :class:`NormalMap`.
        none: see :class:`NormalMap`.
        kwargs: ``suffix``, see :class:`Task`.
    """

    primary_metric = "mErr"
    out_channels = 3
    label = NormalMap()

    def __init__(
        self,
        name: str,
        loss_weight: float = 1.0,
        frame: str = "opengl",
        none: str = "black",
        **kwargs: Any,
    ) -> None:
        with of_task(name):
            self.label = NormalMap(frame, none)
        super().__init__(name, loss_weight, **kwargs)

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
        """The usual colours of normals, in the project's frame; black = none."""
        return encode_normals(values)

    def legend(self, values: np.ndarray, meta: Mapping) -> list[tuple[str, tuple[int, int, int]]]:
        """Colours of the main directions."""
        return [
            ("right", (255, 128, 128)),
            ("up", (128, 255, 128)),
            ("to camera", (128, 128, 255)),
        ]
