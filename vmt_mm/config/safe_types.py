"""Whether a config of unknown origin names registered classes alone.

MMEngine's registries import what they do not know by its dotted name, and call it: a config's
``type`` could be any function of any module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from mmengine.registry import WEIGHT_INITIALIZERS, Registry

from vmt_mm.config.known_keys import REGISTRIES, names_in, nearest
from vmt_mm.errors import InputError

#: Packages whose classes may be named as ``scope.Class``.
_SCOPES = ("vmt_mm", "mmengine", "mmcv", "mmseg", "mmpretrain", "mmdet")


def check_types(config: Mapping[str, Any], source: str) -> None:
    """Raise InputError where a ``type`` is no registered class.

    Args:
        config: the config.
        source: its file, for messages.
    """
    for path, entry in _entries(config, ""):
        scope = entry.get("_scope_", _SCOPES[0])
        if scope not in _SCOPES:
            raise InputError(f"{source}: {path}._scope_ is {scope!r}, none of {list(_SCOPES)}")
        kind = entry.get("type")
        if isinstance(kind, str) and not _is_registered(kind):
            known = {name for registry in REGISTRIES for name in names_in(registry)}
            raise InputError(
                f"{source}: its config's {path}.type {kind!r} is no registered class"
                f"{nearest(kind, known)}; if it is your own, import the module that registers it "
                "before"
            )


def _entries(node: Any, path: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Mapping):
        if "type" in node or "_scope_" in node:
            yield path, node
        for key, child in node.items():
            yield from _entries(child, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _entries(child, f"{path}[{index}]")


def _is_registered(kind: str) -> bool:
    scope, dot, name = kind.rpartition(".")
    if not dot:
        return any(_knows(registry, name) for registry in (*REGISTRIES, WEIGHT_INITIALIZERS))
    if scope not in _SCOPES:
        return False
    try:
        module = import_module(f"{scope}.registry")
    except ImportError:  # not installed, or without registries of its own
        return False
    return any(_knows(r, name, False) for r in vars(module).values() if isinstance(r, Registry))


def _knows(registry: Registry | None, name: str, parents: bool = True) -> bool:
    """Whether a name is registered there, or in the registries asked next; imports no such name."""
    while registry is not None:
        registry.import_from_location()
        if name in registry.module_dict:
            return True
        registry = registry.parent if parents else None
    return False
