"""Run each head's backward pass right after its forward pass, to save activation memory."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn

from vmt_mm.utils.compat import autocast_dtype, is_compiling
from vmt_mm.utils.feature_maps import Map, tensors_of, with_tensors


def eager_loss(
    head: nn.Module, maps: Sequence[Map], loss: Callable[[Sequence[Map]], Tensor]
) -> Tensor:
    """Compute the scalar ``loss(maps)`` and, if possible, its gradients at once.

    The gradient of the scalar only scales a head's gradients. The backward pass therefore runs
    here, and the gradients of the maps and of the head's parameters are kept, not activations.

    Uses ordinary autograd if no gradients are needed, in a compiled graph, and in float16, whose
    small gradients need the loss scale. ``loss`` may use no parameters but those of ``head``.
    """
    split = [tensors_of(x) for x in maps]
    tensors = [x for own in split for x in own]
    parameters = [p for p in head.parameters() if p.requires_grad]
    differentiated = torch.is_grad_enabled() and (
        parameters or any(x.requires_grad for x in tensors)
    )
    in_float16 = autocast_dtype(tensors[0].device.type) == torch.float16
    if not differentiated or in_float16 or is_compiling():
        return loss(maps)

    def run(inputs: Sequence[Tensor]) -> Tensor:
        rest = iter(inputs)
        pairs = zip(maps, split, strict=True)
        return loss([with_tensors(m, [*islice(rest, len(own))]) for m, own in pairs])

    return cast(Tensor, _Eager.apply(run, len(tensors), *tensors, *parameters))


class _Eager(torch.autograd.Function):
    """Scalar function that computes its gradients in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Sequence[Tensor]], Tensor], count: int, *tensors: Tensor
    ) -> Tensor:
        """Call ``run`` on the first ``count`` tensors; the others are the parameters it uses."""
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in tensors[:count]]
        sources = (*inputs, *tensors[count:])
        kind = tensors[0].device.type
        # without its cache: casts made for this graph must not be reused in another
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
        """Multiply the stored gradients by the gradient of the loss."""
        # the factor is nearly always 1; reading it is free on a CPU, but synchronises a GPU
        if factor.is_cpu and factor.item() == 1:
            return None, None, *ctx.saved_tensors
        return None, None, *(x if x is None else x * factor for x in ctx.saved_tensors)
