"""What an exported model gives: one tensor a task, in a fixed order.

Letters: B images, C channels, H, W height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor

#: What can be exported: a task's logits, or what it predicts from them.
OUTPUTS = ("logits", "predictions")


class TaskOutputs(nn.Module):
    """Images in, a tuple of one tensor a task out, each at the images' size.

    Args:
        model: in eval mode.
        tasks: the tasks wanted, in the order of the outputs; None takes all.
        outputs: one of ``OUTPUTS``. Logits are (B, C, H, W); predictions (B, c, H, W), as
            ``Task.to_prediction`` makes them.

    Raises:
        InputError: if a task is unknown.
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
        self.predicts = outputs == "predictions"

    @property
    def image_channels(self) -> int:
        """Channels of the images; three where the encoder does not say."""
        return getattr(self.model.backbone, "image_channels", None) or 3

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, image_channels, H, W), normalised, to one tensor a task."""
        logits = self.model.logits(images, self.names)
        size = (images.shape[2], images.shape[3])  # a slice would be a constant to tracers
        maps = []
        for name in self.names:
            values = F.interpolate(logits[name], size=size, mode="bilinear", align_corners=False)
            maps.append(self.model.tasks[name].to_prediction(values) if self.predicts else values)
        return tuple(maps)
