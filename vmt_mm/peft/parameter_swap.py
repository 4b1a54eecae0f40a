"""Call a function of a backbone with other tensors in place of its parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn


def call_with(
    root: nn.Module, parameters: Mapping[str, Tensor], function: Callable[..., Any], *args: Any
) -> Any:
    """Call ``function(*args)`` with ``parameters`` (key in ``root`` -> tensor) in place.

    ``root`` is modified during the call: callers on several threads need a lock.
    """
    own = {key: find_parameter(root, key) for key in parameters}
    try:
        replace_parameters(root, parameters)
        return function(*args)
    finally:
        replace_parameters(root, own)


def find_parameter(root: nn.Module, key: str) -> Tensor | None:
    """Return a parameter; None if it is unregistered, KeyError if it does not exist."""
    owner, _, name = key.rpartition(".")
    return root.get_submodule(owner)._parameters[name]


def unregister(root: nn.Module, keys: Iterable[str]) -> None:
    """Set parameters that are swapped per task to None, so that they are not saved or counted."""
    replace_parameters(root, dict.fromkeys(keys))


def replace_parameters(root: nn.Module, values: Mapping[str, Any]) -> None:
    """Replace parameters of ``root`` by key."""
    for key, value in values.items():
        owner, _, name = key.rpartition(".")
        root.get_submodule(owner)._parameters[name] = value
