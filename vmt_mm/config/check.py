"""Find config keys that nothing reads, before anything is built.

mmengine accepts any key: a misspelt one leaves the default in force, silently, or ends in a
traceback of the class that does not know it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from vmt_mm.config.known_keys import (
    INSTEAD,
    OF_BUILDERS,
    OF_OLDER_MMSEG,
    OF_TTA,
    TOP_LEVEL,
    UNTYPED,
    VERY_ALIKE,
    find_kinds,
    names_in,
    nearest,
    parameters_of,
    registries_for,
)
from vmt_mm.config.unfit import unfit_faults
from vmt_mm.errors import InputError

#: Said where no name is near: the key may have come along from the file below.
_OF_BASE = " (a base file's settings of another type are left out by _delete_=True)"


def check_keys(cfg: Mapping[str, Any], options: Collection[str] = ()) -> None:
    """Raise InputError for keys and types that nothing knows, with the nearest right ones.

    - A top-level variable may have any name in a file; one that is nearly a known name is taken for
      a slip. One that only the options set is read by nothing.
    - A dictionary with a ``type`` may hold the arguments of that class.

    Args:
        cfg: the merged config.
        options: top-level keys that the options brought in.
    """
    cfg = dict(cfg.items())
    faults = [*_top_level(cfg, options), *_hooks(cfg), *_recomputation(cfg), *unfit_faults(cfg)]
    for path, known in UNTYPED.items():
        faults.extend(_untyped(cfg, path, known))
    for key in cfg.keys() & (TOP_LEVEL | OF_TTA):  # in others, anything may stand
        faults.extend(_entries(cfg[key], key))
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))


def _top_level(cfg: Mapping[str, Any], options: Collection[str]) -> Iterator[str]:
    for key in cfg:
        if key in TOP_LEVEL or key in OF_TTA:
            continue
        if key in options:
            yield f"option {key!r} reaches nothing{nearest(key, {*TOP_LEVEL, *cfg} - {key})}"
        elif key in OF_OLDER_MMSEG:
            yield (
                f"the config's top-level {key!r} is of MMSegmentation before 1.0, and reaches "
                f"nothing; set {OF_OLDER_MMSEG[key]}"
            )
        elif get_close_matches(key, TOP_LEVEL, 1, VERY_ALIKE):
            yield (
                f"the config's top-level {key!r} reaches nothing{nearest(key, TOP_LEVEL)} (a "
                "variable of your own needs a name less alike)"
            )


def _untyped(cfg: Mapping[str, Any], path: str, known: set[str]) -> Iterator[str]:
    """Faults of a dictionary that needs no type, since its place says what it is."""
    node: Any = cfg
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping) or ("type" in node and "type" not in known):
        return
    for key in node:
        if key not in known:
            yield f"{path} takes no {key!r}{INSTEAD.get(key) or nearest(key, known)}"


def _hooks(cfg: Mapping[str, Any]) -> Iterator[str]:
    hooks = cfg.get("default_hooks") or {}
    known = [name for name, hook in hooks.items() if hook is None or "type" in hook]
    for name in hooks:
        if name not in known:
            yield f"default_hooks.{name} has no `type`{nearest(name, known)}"


def _recomputation(cfg: Mapping[str, Any]) -> Iterator[str]:
    """MMEngine's recomputes inside what a method replaces, where gradients go wrong silently."""
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    if cfg.get("activation_checkpointing") and "peft" in backbone:
        yield (
            "activation_checkpointing does not go with a PEFT method; set "
            "model.backbone.with_cp=True instead"
        )


def _entries(node: object, path: str) -> Iterator[str]:
    """Faults of every dictionary with a type, at or below ``node``."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _entries(child, f"{path}[{index}]")
    elif isinstance(node, Mapping):
        if "type" in node:
            yield from _arguments(node, path)
        for key, child in node.items():
            if not str(key).endswith("_cfg"):  # norm_cfg, init_cfg, ...: their builders take more
                yield from _entries(child, f"{path}.{key}")


def _arguments(node: Mapping[str, Any], path: str) -> Iterator[str]:
    """Faults of one dictionary: its type is unknown, or takes none of these arguments."""
    registries_here = registries_for(path)
    kinds = find_kinds(node["type"], registries_here)
    if not kinds:
        known = {name for registry in registries_here for name in names_in(registry)}
        what = registries_here[0].name if len(registries_here) == 1 else "class"
        name = str(node["type"])
        yield f"{path}.type: no {what} is named {name!r}{nearest(name, known)}"
        return
    faults: list[str] = []
    for kind in kinds:
        known, anything = parameters_of(kind)
        unread = getattr(kind, "unread", {})
        if refused := [key for key in node if key in unread]:
            yield from (f"{path}.{k}: {kind.__name__} takes no {k!r}; {unread[k]}" for k in refused)
            return
        unknown = [key for key in node if key not in known | OF_BUILDERS]
        if anything:
            unknown = [key for key in unknown if get_close_matches(key, known, 1, VERY_ALIKE)]
        if not unknown:
            return
        faults = faults or [
            f"{path}.{key}: {kind.__name__} takes no {key!r}{nearest(key, known) or _OF_BASE}"
            for key in unknown
        ]
    yield from faults
