"""Outputs of an exported model, one tensor per task in a fixed order, and its description.

Notation: B images, C channels, H, W height and width in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor

#: Kinds of outputs: a task's logits, or its predictions.
OUTPUTS = ("logits", "predictions")
#: Key of the JSON description in the metadata of ONNX files; name of the extra file in ``.pt2``.
DESCRIPTION = "vmt_mm.json"


class TaskOutputs(nn.Module):
    """Wraps a model to return a tuple of one tensor per task, each at the images' size.

    ``tasks`` sets the order of the outputs; None takes all. ``outputs`` are 'logits' (B, C, H, W),
    or 'predictions' (B, c, H, W) of ``Task.to_prediction``.
    """

    def __init__(
        self, model: MultiTaskSegmentor, tasks: Sequence[str] | None = None, outputs: str = "logits"
    ) -> None:
        super().__init__()
        if outputs not in OUTPUTS:
            raise InputError(f"outputs must be one of {OUTPUTS}, got {outputs!r}")
        self.model = model
        self.names = model.backbone.select_tasks(tasks)
        self.outputs = outputs

    @property
    def image_channels(self) -> int:
        """Number of image channels; 3 if the backbone does not define it."""
        return getattr(self.model.backbone, "image_channels", None) or 3

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Convert normalised images (B, image_channels, H, W) to one tensor per task."""
        logits = self.model.logits(images, self.names)
        size = (images.shape[2], images.shape[3])  # tracers would treat a slice as constant
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

    ``names`` maps tasks to ``dict(classes=..., palette=...)``; ``size`` is (H, W) of the traced
    images; ``dynamic`` are the dimensions that may differ: 'batch', 'all' or None. Mean and std
    apply to values in [0, 255], in the order of the input's channels.
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
    """Return the order of an image's channels: mmcv reads BGR; the preprocessor may swap it."""
    if channels < 3:
        return "grey" if channels == 1 else f"{channels} as read"
    # mmengine's preprocessor has only a private attribute for it
    turned = getattr(preprocessor, "_swap", getattr(preprocessor, "_channel_conversion", False))
    return ("RGB" if turned else "BGR") + (f" and {channels - 3} as read" if channels > 3 else "")


def _numbers(values: Tensor | None, default: float, channels: int) -> list[float]:
    """Return one number per channel, rounded to the 7 significant digits of float32."""
    numbers = [default] if values is None else [float(f"{v:.7g}") for v in values.flatten()]
    return numbers * channels if len(numbers) == 1 else numbers
