"""What an exported model gives, one tensor per task in a fixed order, and what its file says of it.

Letters: B images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor

#: What can be exported: a task's logits, or what it predicts from them.
OUTPUTS = ("logits", "predictions")
#: Key of the description, JSON, in the metadata of ONNX files and among the files of ``.pt2``.
DESCRIPTION = "vmt_mm.json"


class TaskOutputs(nn.Module):
    """Images in, a tuple of one tensor per task out, each at the images' size.

    ``tasks`` are in the order of the outputs; None takes all. ``outputs`` are logits (B, C, H, W),
    or predictions (B, c, H, W) as ``Task.to_prediction`` makes them.
    """

    def __init__(
        self,
        model: MultiTaskSegmentor,
        tasks: Sequence[str] | None = None,
        outputs: str = "logits",
    ) -> None:
        super().__init__()
        if outputs not in OUTPUTS:
            raise InputError(f"outputs must be one of {OUTPUTS}, got {outputs!r}")
        self.model = model
        self.names = model.backbone.select_tasks(tasks)
        self.outputs = outputs

    @property
    def image_channels(self) -> int:
        """Channels of the images; three where the backbone does not say."""
        return getattr(self.model.backbone, "image_channels", None) or 3

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, image_channels, H, W), normalised, to one tensor per task."""
        logits = self.model.logits(images, self.names)
        size = (images.shape[2], images.shape[3])  # a slice would be a constant to tracers
        maps = []
        for name in self.names:
            values = F.interpolate(logits[name], size=size, mode="bilinear", align_corners=False)
            predicts = self.outputs == "predictions"
            maps.append(self.model.tasks[name].to_prediction(values) if predicts else values)
        return tuple(maps)


def describe_model(
    wrapped: TaskOutputs, names: Mapping[str, Any], size: Sequence[int], dynamic: str | None
) -> dict[str, Any]:
    """Describe an exported model, so that it can be used without this project.

    ``names`` are task -> ``dict(classes=..., palette=...)``, ``size`` (H, W) of the traced images,
    ``dynamic`` what may differ from that: 'batch', 'all' or None. Mean and std are of values 0..255
    in the order of ``input``'s channels.
    """
    preprocessor, number = wrapped.model.data_preprocessor, wrapped.image_channels
    tasks = {}
    for name in wrapped.names:
        task, given = wrapped.model.tasks[name], names.get(name) or {}
        tasks[name] = dict(
            kind=type(task).__name__,
            channels=task.out_channels,
            label=task.describe_output(),
            **{k: v if isinstance(v, str) else np.asarray(v).tolist() for k, v in given.items()},
        )
    order = _order(preprocessor, number)
    return dict(
        input=dict(name="images", size=list(size), dynamic=dynamic, channels=order),
        mean=_numbers(getattr(preprocessor, "mean", None), 0.0, number),
        std=_numbers(getattr(preprocessor, "std", None), 1.0, number),
        output=wrapped.outputs,
        tasks=tasks,
    )


def _order(preprocessor: Any, channels: int) -> str:
    """The order of an image's channels: mmcv reads BGR, which the preprocessor may turn."""
    if channels < 3:
        return "grey" if channels == 1 else f"{channels} as read"
    # mmengine's preprocessor tells it by a private name alone
    turned = getattr(preprocessor, "_swap", getattr(preprocessor, "_channel_conversion", False))
    return ("RGB" if turned else "BGR") + (f" and {channels - 3} as read" if channels > 3 else "")


def _numbers(values: Tensor | None, default: float, channels: int) -> list[float]:
    """One number per channel, with as many digits as float32 has: some are small."""
    numbers = [default] if values is None else [float(f"{v:.7g}") for v in values.flatten()]
    return numbers * channels if len(numbers) == 1 else numbers
