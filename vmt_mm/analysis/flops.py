"""Count the arithmetic of a model: matrix products and convolutions, 2 for a multiply-add."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.utils.compat import CPU_ATTENTION_FLOPS


def count_operations(run: Callable[[], object]) -> int:
    """Operations of a call."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION_FLOPS) as counter:
        run()
    return counter.get_total_flops()


@torch.no_grad()
def count_flops(model: MultiTaskSegmentor, shape: Sequence[int]) -> list[dict[str, Any]]:
    """``name``, ``flops`` and ``parameters`` of the encoder, for all tasks, and of each head.

    Args:
        model: with any weights.
        shape: (H, W) of the image.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # mmseg reports missing weights
        model.backbone.init_weights()
    image = torch.randn(1, 3, *shape)
    features = model.eval().backbone(image)
    parts = [("encoder", model.backbone, image)]
    parts += [(f"head of {name}", model.heads[name], maps) for name, maps in features.items()]
    return [
        dict(
            name=name,
            flops=count_operations(partial(module, inputs)),
            parameters=sum(p.numel() for p in module.parameters()),
        )
        for name, module, inputs in parts
    ]
