"""Whether a config of unknown origin names registered classes alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mmengine.registry import Registry

from vmt_mm.config.components import REGISTRIES, find_registered, names_in, nearest
from vmt_mm.config.tree import walk
from vmt_mm.errors import InputError

#: Packages whose classes may be named as ``scope.Class``.
_SCOPES = ("vmt_mm", "mmengine", "mmcv", "mmseg", "mmpretrain", "mmdet")


def check_types(config: Mapping[str, Any], source: str) -> None:
    """Raise InputError where a ``type`` is not a registered class.

    mmengine's registries import what they do not know by its dotted name, and call it.
    """
    for path, entry in walk(config):
        if (scope := entry.get("_scope_", _SCOPES[0])) not in _SCOPES:
            raise InputError(f"{source}: {path}._scope_ is {scope!r}, none of {list(_SCOPES)}")
        kind = entry.get("type") if path else None
        scope, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
        if name and not any(find_registered(registry, name) for registry in _registries(scope)):
            known = {name for registry in REGISTRIES for name in names_in(registry)}
            raise InputError(
                f"{source}: its config's {path}.type {kind!r} is no registered class"
                f"{nearest(name, known)}; if it is your own, import the module that registers it "
                "before"
            )


def _registries(scope: str) -> list[Registry]:
    try:
        module = import_module(f"{scope}.registry") if scope in _SCOPES else None
    except ImportError:  # not installed, or without registries of its own
        module = None
    found = [r for r in vars(module).values() if isinstance(r, Registry)] if module else []
    return found if scope else REGISTRIES
