"""Base class of saliency and edges: one foreground probability per pixel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.tasks.labels import LabelSpec
from vmt_mm.tasks.task import Task
from vmt_mm.utils.label_files import (
    LOSSLESS,
    LOSSY,
    MASK_VALUES,
    read_mask,
    read_stored,
    with_channels,
)

#: The usual probability thresholds: 0.05, 0.1, ..., 0.95.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


class ForegroundMask(LabelSpec):
    """Binary masks: 8-bit files; labels are 0 or 1, and 255 for ignored pixels."""

    suffixes = (*LOSSLESS, *LOSSY)
    value_names = ("background (check option `values`)", "foreground (check option `values`)")

    def __init__(self, values: str = "mask255") -> None:
        if values not in MASK_VALUES:
            raise InputError(f"`values` must be one of {MASK_VALUES}, got {values!r}")
        self.values = values

    def read(self, path: str | Path) -> np.ndarray:
        """Read raw values (H, W), uint8."""
        return read_mask(path, self.values)

    def interpret(self, values: np.ndarray) -> np.ndarray:
        """Convert raw values to foreground 0/1, (H, W) uint8; 255 means ignored."""
        return (values > 127).view(np.uint8) if self.values == "mask255" else values

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Convert probabilities (1, H, W) to an image (H, W), uint8 0..255, for any ``values``."""
        return np.rint(np.clip(values[0], 0, 1) * 255).astype(np.uint8)

    def decode_prediction(self, path: str | Path) -> np.ndarray:
        """Read the probabilities 0..255 of a file as 0..1, (H, W) float32."""
        rule = "probabilities 0..255 in one channel"
        return with_channels(read_stored(path, rule)[0], 1, path, rule) / np.float32(255)


class ForegroundTask(Task):
    """Base class of tasks that predict one foreground probability per pixel, by a sigmoid.

    Args:
        values: of label files: 'mask255' (foreground > 127) or 'mask01' (255 = ignored).
    """

    out_channels = 1
    content = "foreground"
    label = ForegroundMask()

    def __init__(self, name: str, values: str = "mask255", **kwargs: Any) -> None:
        self.label = ForegroundMask(values)
        super().__init__(name, **kwargs)

    def to_prediction(self, logits: Tensor) -> Tensor:
        """Return foreground probabilities in 0..1, (N, 1, H, W)."""
        return logits.sigmoid()

    to_scores = to_prediction

    def from_scores(self, scores: Tensor) -> Tensor:
        """Return ``scores``: a mean of probabilities is a probability."""
        return scores

    def draw(self, values: np.ndarray, meta: Mapping) -> np.ndarray:
        """Draw a grey image: white = foreground, mid-grey = ignored label pixels."""
        image = self.label.encode(values)
        image[values[0] == self.label.fill] = 128
        return np.repeat(image[..., None], 3, axis=-1)
