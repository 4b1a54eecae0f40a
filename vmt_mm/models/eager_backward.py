"""Losses whose gradients are computed at once, so that one head's activations live at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.models.lazy_resize import Map, values_of, with_values
from vmt_mm.utils.compat import autocast_dtype, is_compiling


def loss_of(head: nn.Module, maps: Sequence[Map], loss: Callable[[Sequence[Map]], Tensor]
            ) -> Tensor:  # fmt: skip
    """``loss(maps)``, a scalar; its gradients are taken before the next head runs, where possible.

    A head's activations at stride 4 and the loss's at full size are larger than all that a frozen
    encoder keeps. They are needed until the head's backward pass, which depends on the loss's own
    gradient only by a factor. So it is done at once, and its results are kept: gradients of the
    maps and of the head's parameters. The values are those of the usual order.

    Where nothing is differentiated, or compiled, or in float16 (whose small gradients need the
    factor), the loss is an ordinary one.

    Args:
        head: whose parameters the loss depends on, beside the maps.
        maps: of the task.
        loss: gives the loss of maps like these.
    """
    if not torch.is_grad_enabled() or is_compiling() or _in_float16(maps):
        return loss(maps)
    tensors = [values_of(x) for x in maps]
    parameters = [p for p in head.parameters() if p.requires_grad]
    if not parameters and not any(x.requires_grad for x in tensors):
        return loss(maps)

    def run(inputs: Sequence[Tensor]) -> Tensor:
        return loss([with_values(m, x) for m, x in zip(maps, inputs, strict=True)])

    return _Immediate.apply(run, len(tensors), *tensors, *parameters)


def _in_float16(maps: Sequence[Map]) -> bool:
    return autocast_dtype(values_of(maps[0]).device.type) == torch.float16


class _Immediate(torch.autograd.Function):
    """A scalar function that is differentiated as soon as it is computed."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Sequence[Tensor]], Tensor], count: int, *tensors: Tensor
    ) -> Tensor:
        """Run on the first ``count`` tensors; the others are parameters that it uses as well."""
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[:count]]
        kind = tensors[0].device.type
        # what autocast has cast for this graph must not serve another one
        dtype = autocast_dtype(kind)
        cast = torch.autocast(kind, dtype, enabled=dtype is not None, cache_enabled=False)
        with torch.enable_grad(), cast:
            loss = run(inputs)
        wanted = [x for x in (*inputs, *tensors[count:]) if x.requires_grad]
        with torch.autocast(kind, enabled=False):
            found = torch.autograd.grad(loss, wanted, allow_unused=True)
        gradients = iter(found)
        every = [next(gradients) if x.requires_grad else None for x in (*inputs, *tensors[count:])]
        ctx.present = [x is not None for x in every]
        ctx.save_for_backward(*(x for x in every if x is not None))
        return loss.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, times the loss's own."""
        saved = iter(ctx.saved_tensors)
        # to look at the factor is free on a CPU, where it is nearly always 1; a GPU would wait
        same = factor.is_cpu and factor.item() == 1
        scaled = (x if same else x * factor for x in saved)
        return None, None, *(next(scaled) if there else None for there in ctx.present)
