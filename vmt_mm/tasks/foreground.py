"""What saliency and edges share: one foreground probability per pixel."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.task import Task
from vmt_mm.utils.label_files import LOSSLESS, LOSSY, MASK_VALUES, read_mask

#: 0.05, 0.1 .. 0.95, the usual thresholds for probabilities.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


class ForegroundMask(LabelSpec):
    """8-bit file of a mask; in memory 0 or 1, 255 where a pixel is ignored."""

    suffixes = (*LOSSLESS, *LOSSY)
    value_names = ("background: by `values` of the task", "foreground: by `values` of the task")

    def __init__(self, values: str = "mask255") -> None:
        if values not in MASK_VALUES:
            raise InputError(f"values must be one of {MASK_VALUES}, got {values!r}")
        self.values = values

    def read(self, path: str | Path) -> np.ndarray:
        """Read values (H, W), uint8."""
        return read_mask(path, self.values)

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Foreground (H, W), uint8 0/1, and 255 where ignored."""
        return (values > 127).view(np.uint8) if self.values == "mask255" else values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Probabilities (1, H, W) in 0..1 to an image (H, W), uint8 0..255, of any ``values``."""
        return np.rint(np.clip(values[0], 0, 1) * 255).astype(np.uint8)

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Foreground (H, W), uint8 0/1, of probabilities in 0..255."""
        return ForegroundMask().decode(path)


class ForegroundTask(Task):
    """One foreground probability per pixel, by a sigmoid.

    ``values`` of label files: 'mask255', foreground > 127; 'mask01', foreground = 1, 255 = ignored.
    """

    out_channels = 1
    label = ForegroundMask()

    def __init__(self, name: str, values: str = "mask255", **kwargs: Any) -> None:
        self.label = ForegroundMask(values)
        super().__init__(name, **kwargs)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Probability of foreground, (N, 1, H, W) float in 0..1."""
        return logits.sigmoid()

    to_scores = to_prediction

    def from_scores(self, scores: Tensor) -> Tensor:
        """A mean of probabilities is one."""
        return scores

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Grey image, white = foreground; label pixels that are ignored in mid-grey."""
        image = self.label.encode(values)
        image[values[0] == self.label.fill] = 128
        return np.repeat(image[..., None], 3, axis=-1)


def weighted_bce(
    logits: Tensor, target: Tensor, valid: Tensor, positive_weight: Tensor | float
) -> Tensor:
    """BCE of (N, 1, H, W), weight w on positives (1), 1 - w on others; mean over valid pixels."""
    positive = (target == 1) & valid
    weight = valid * (1 - positive_weight) + positive * (2 * positive_weight - 1)
    total = F.binary_cross_entropy_with_logits(
        logits, positive.to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return total / valid.sum().clamp(min=1)
