"""Count the arithmetic of a model, part by part."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vmt_mm.analysis.machine import OperationCounter
from vmt_mm.models import MultiTaskSegmentor


@dataclass(frozen=True)
class Flops:
    """What one part of a model takes.

    Attributes:
        name: of the part.
        flops: operations, 2 a multiply-add, of matrix products and convolutions.
        parameters: how many it has.
    """

    name: str
    flops: int
    parameters: int


@torch.no_grad()
def count_flops(model: MultiTaskSegmentor, shape: Sequence[int]) -> list[Flops]:
    """Run one image of noise, and count: the encoder for all tasks, then every task's head.

    Operations are counted where they reach PyTorch's kernels, so it does not matter which module
    asked for them: the products within attention count, and so does every pass of a method that
    runs the encoder once a task.

    Args:
        model: with any weights.
        shape: (H, W) of the image.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # mmseg says of each that it has no weights
        model.backbone.init_weights()
    model.eval()
    with OperationCounter() as counter:
        features = model.backbone(torch.randn(1, 3, *shape))
    parts = [_part("encoder", counter, model.backbone)]
    for name, maps in features.items():
        with OperationCounter() as counter:
            model.heads[name](maps)
        parts.append(_part(f"head of {name}", counter, model.heads[name]))
    return parts


def _part(name: str, counter: OperationCounter, module: nn.Module) -> Flops:
    return Flops(name, counter.total, sum(p.numel() for p in module.parameters()))
