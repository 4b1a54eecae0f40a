"""Layers that treat every token alike, run on some tokens after the other.

Letters: B images, L tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vmt_mm.utils.compat import is_compiling, is_exporting

#: Elements of the widest layer's output that are computed at a time: they stay in the cache.
_CHUNK = 1 << 20
#: Below this many nothing is gained. Allocations above it (32 MB) glibc takes from the system each
#: time, which then clears every page.
_MINIMUM = 1 << 23


def over_tokens(run: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """``run(x)``; on a CPU in chunks of tokens, where the whole would not stay in the cache.

    Args:
        run: (n, d) to (n, d'), each token by itself; (B, L, d) to (B, L, d') as well.
        x: (B, L, d).
        width: channels of the widest layer in ``run``.

    Returns:
        (B, L, d').
    """
    rows = x.shape[0] * x.shape[1]
    traced = is_compiling() or is_exporting()
    if traced or not x.is_cpu or rows * width < _MINIMUM:
        return run(x)
    parts = x.flatten(0, 1).split(_CHUNK // width)
    if torch.is_grad_enabled():
        return torch.cat([run(part) for part in parts]).view(*x.shape[:2], -1)
    first = run(parts[0])
    output = first.new_empty(rows, first.shape[1])
    for part, place in zip(parts, output.split(_CHUNK // width), strict=True):
        place.copy_(first if part is parts[0] else run(part))
    return output.view(*x.shape[:2], -1)
