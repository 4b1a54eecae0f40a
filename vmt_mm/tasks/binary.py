"""What tasks with one foreground probability a pixel share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.tasks.labels import LabelSpec, read_label
from vmt_mm.tasks.task import Task

#: 0.05, 0.1 .. 0.95, at which part of the field cuts probabilities.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


class ForegroundMask(LabelSpec):
    """8-bit file with foreground > 127; in memory 0 or 1, 255 where a warp brought pixels in."""

    def read(self, path: str | Path) -> np.ndarray:
        """Read values (H, W), uint8."""
        return read_label(path, "8-bit foreground values in one channel", np.uint8)

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Foreground (H, W), uint8 0/1."""
        return (values > 127).view(np.uint8)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Probabilities (1, H, W) in 0..1 to an image (H, W), uint8 0..255."""
        return np.rint(np.clip(values[0], 0, 1) * 255).astype(np.uint8)


class ForegroundTask(Task):
    """One foreground probability a pixel, by a sigmoid."""

    out_channels = 1
    label = ForegroundMask()

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Probability of foreground, (N, 1, H, W) float in 0..1."""
        return logits.sigmoid()

    def to_scores(self, logits: Tensor) -> Tensor:
        """The probability itself."""
        return self.to_prediction(logits)

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
    """BCE with weight w on positive and 1 - w on negative pixels, mean over the valid ones.

    Args:
        logits: (N, 1, H, W).
        target: the same shape, 1 = positive; anything where ``valid`` is false.
        valid: the same shape, bool.
        positive_weight: w in 0..1.

    Returns:
        A scalar, 0 and attached to the graph where no pixel is valid.
    """
    positive = (target == 1) & valid
    weight = valid * (1 - positive_weight) + positive * (2 * positive_weight - 1)
    total = F.binary_cross_entropy_with_logits(
        logits, positive.to(logits.dtype), weight=weight.to(logits.dtype), reduction="sum"
    )
    return total / valid.sum().clamp(min=1)
