"""Call a function of a backbone with other tensors in place of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def call_with(
    root: nn.Module, parameters: Mapping[str, Tensor], function: Callable[..., Any], *args: Any
) -> Any:
    """``function(*args)`` with ``parameters`` (key in ``root`` -> tensor) in place.

    What ``torch.func.functional_call`` does for a module's forward, and ONNX's tracer can follow.
    ``root`` is changed while the function runs: callers on several threads need a lock.
    """
    places = [_place(root, key) for key in parameters]
    own = [owner[name] for owner, name in places]
    try:
        for (owner, name), value in zip(places, parameters.values(), strict=True):
            owner[name] = value
        return function(*args)
    finally:
        for (owner, name), value in zip(places, own, strict=True):
            owner[name] = value


def find_parameter(root: nn.Module, key: str) -> Tensor | None:
    """The parameter of that key; None if its place is empty.

    Raises:
        KeyError: if ``root`` has no such place.
    """
    owner, name = _place(root, key)
    return owner[name]


def unregister(root: nn.Module, keys: Iterable[str]) -> None:
    """Empty the places of parameters that are swapped in per task: not saved, not counted."""
    for key in keys:
        owner, name = _place(root, key)
        owner[name] = None


def _place(root: nn.Module, key: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds a parameter, and its name there."""
    owner, _, name = key.rpartition(".")
    return root.get_submodule(owner)._parameters, name
