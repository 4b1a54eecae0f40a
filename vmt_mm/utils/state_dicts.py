"""Say how the keys of a state dict differ from a model's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

_SHOWN = 4


def key_faults(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    may_miss: Callable[[str], object],
) -> list[str]:
    """List in words what misses, what is unknown and what has another shape; empty if all fits.

    Args:
        own: the model's state dict.
        state: what is to be loaded.
        may_miss: whether a key of the model may be absent.
    """
    missing = sorted(k for k in own if k not in state and not may_miss(k))
    unknown = sorted(k for k in state if k not in own)
    shapes = [
        f"{k} {tuple(v.shape)} (model: {tuple(own[k].shape)})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    named = (("missing", missing), ("unknown", unknown), ("differently sized", shapes))
    return [
        f"{len(keys)} {what} key(s): {', '.join(keys[:_SHOWN])}{', ...' * (len(keys) > _SHOWN)}"
        for what, keys in named
        if keys
    ]
