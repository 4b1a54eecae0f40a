"""Call a function of a backbone with other tensors in place of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def call_with(
    root: nn.Module, parameters: Mapping[str, Tensor], function: Callable[..., Any], *args: Any
) -> Any:
    """``function(*args)`` with ``parameters`` (key in ``root`` -> tensor) in place.

    ``root`` is changed while the function runs: callers on several threads need a lock.
    """
    own = {key: find_parameter(root, key) for key in parameters}
    try:
        _replace(root, parameters)
        return function(*args)
    finally:
        _replace(root, own)


def find_parameter(root: nn.Module, key: str) -> Tensor | None:
    """The parameter of that key; None if its place is empty, a KeyError if there is none."""
    owner, _, name = key.rpartition(".")
    return root.get_submodule(owner)._parameters[name]


def unregister(root: nn.Module, keys: Iterable[str]) -> None:
    """Empty the places of parameters that are swapped in per task: not saved, not counted."""
    _replace(root, dict.fromkeys(keys))


def _replace(root: nn.Module, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        owner, _, name = key.rpartition(".")
        root.get_submodule(owner)._parameters[name] = value
