"""Run each head's backward pass before the next head: fewer activations are in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from vmt_mm.models.lazy_resize import Map, values_of, with_values
from vmt_mm.utils.compat import autocast_dtype, is_compiling


def eager_loss(
    head: nn.Module, maps: Sequence[Map], loss: Callable[[Sequence[Map]], Tensor]
) -> Tensor:
    """``loss(maps)``, a scalar, whose gradients are computed at once, where possible.

    A head's backward pass depends on the gradient of the loss only by a factor. So it is run here,
    and the gradients of the maps and of the head's parameters are kept instead of activations.

    The loss stays an ordinary one where no gradients are wanted, in a compiled graph, and in
    float16, whose small gradients need the factor. ``loss`` may depend on the parameters of
    ``head``, and no others.
    """
    tensors = [values_of(x) for x in maps]
    parameters = [p for p in head.parameters() if p.requires_grad]
    differentiated = torch.is_grad_enabled() and (
        parameters or any(x.requires_grad for x in tensors)
    )
    in_float16 = autocast_dtype(tensors[0].device.type) == torch.float16
    if not differentiated or in_float16 or is_compiling():
        return loss(maps)

    def run(inputs: Sequence[Tensor]) -> Tensor:
        return loss([with_values(m, x) for m, x in zip(maps, inputs, strict=True)])

    return cast(Tensor, _Eager.apply(run, len(tensors), *tensors, *parameters))


class _Eager(torch.autograd.Function):
    """A scalar function that is differentiated as soon as it is computed."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Sequence[Tensor]], Tensor], count: int, *tensors: Tensor
    ) -> Tensor:
        """Run on the first ``count`` tensors; the others are parameters that it uses as well."""
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[:count]]
        sources = (*inputs, *tensors[count:])
        kind = tensors[0].device.type
        # what autocast has cast for this graph must not be used in another one
        dtype = autocast_dtype(kind)
        cast_to = torch.autocast(kind, dtype, enabled=dtype is not None, cache_enabled=False)
        with torch.enable_grad(), cast_to:
            loss = run(inputs)
        wanted = [x for x in sources if x.requires_grad]
        with torch.autocast(kind, enabled=False):
            found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
        ctx.save_for_backward(*(next(found) if x.requires_grad else None for x in sources))
        return loss.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, times the loss's own."""
        # reading the factor is free on a CPU, where it is nearly always 1; a GPU would wait
        if factor.is_cpu and factor.item() == 1:
            return None, None, *ctx.saved_tensors
        return None, None, *(x if x is None else x * factor for x in ctx.saved_tensors)
