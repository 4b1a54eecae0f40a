"""Whether a call is run or traced."""

from __future__ import annotations

import torch
from torch import Tensor

from vmt_mm.utils.compat import is_exporting as torch_is_exporting


def is_exporting() -> bool:
    """Whether the call is traced for another runtime, where sizes are symbols and not numbers."""
    return torch_is_exporting() or torch.jit.is_tracing()


def take_first(x: Tensor, dim: int, length: int) -> Tensor:
    """The first ``length`` entries along a dimension.

    Where the length is a symbol, onnxruntime's shape inference cannot tell that it is the shorter
    one, and takes a slice to be all there is; it follows the length of a list of indices.
    """
    if is_exporting():
        return x.index_select(dim, torch.arange(length, device=x.device))
    return x.narrow(dim, 0, length)
