"""Find config keys that nothing reads, before anything is built.

mmengine accepts any key: a misspelt one leaves the default in force, silently, or ends in a
traceback of the class that does not know it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.registry import FUNCTIONS, Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import vmt_mm.registry as registries
from vmt_mm.errors import InputError

#: Read by the runner from the config itself, or by this project's `load_config`.
_TOP_LEVEL = {
    *inspect.signature(Runner).parameters,
    "runner_type",
    "custom_imports",
    "compile",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
    "activation_checkpointing",
    "efficient_conv_bn_eval",
    "total_batch_size",
    "data_root",
    "image_size",
    "render",
    "tasks",
    "reference",
    "pretrained",
    "allow_random_backbone",
}
#: Read by a builder before the class of the same dictionary sees it.
_OF_BUILDERS = {
    "type",
    "_scope_",
    "_delete_",
    "constructor",
    "paramwise_cfg",
    "convert_to_iter_based",
    "priority",
}
_OF_LOADERS = {
    *inspect.signature(DataLoader).parameters,
    "num_batch_per_epoch",
    "disable_subprocess_warning",
}
#: How alike a name must be to be taken for the one that was meant: where any name may stand, and
#: where an unknown one is wrong anyway.
_VERY_ALIKE, _ALIKE = 0.85, 0.5
_REGISTRIES = [r for r in vars(registries).values() if isinstance(r, Registry)] + [FUNCTIONS]


def check_keys(cfg: Mapping[str, Any], options: Collection[str] = ()) -> None:
    """Raise InputError for keys and types that nothing knows, with the nearest right ones.

    - A top-level variable may have any name in a file; one that is nearly a known name is taken for
      a slip. One that only the options set is read by nothing.
    - A dictionary with a ``type`` may hold the arguments of that class.

    Args:
        cfg: the merged config.
        options: top-level keys that the options brought in.
    """
    faults = [*_top_level(cfg, options), *_loaders(cfg), *_hooks(cfg)]
    for key, value in cfg.items():
        faults.extend(_entries(value, key))
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))


def _top_level(cfg: Mapping[str, Any], options: Collection[str]) -> Iterator[str]:
    for key in cfg:
        if key in _TOP_LEVEL:
            continue
        if key in options:
            yield f"option {key!r} reaches nothing{_nearest(key, {*_TOP_LEVEL, *cfg} - {key})}"
        elif get_close_matches(key, _TOP_LEVEL, 1, _VERY_ALIKE):
            yield (
                f"the config's top-level {key!r} reaches nothing{_nearest(key, _TOP_LEVEL)} (a "
                "variable of your own needs a name less alike)"
            )


def _loaders(cfg: Mapping[str, Any]) -> Iterator[str]:
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for key in cfg.get(name) or ():
            if key not in _OF_LOADERS:
                yield f"{name}.{key}: a data loader takes no {key!r}{_nearest(key, _OF_LOADERS)}"


def _hooks(cfg: Mapping[str, Any]) -> Iterator[str]:
    hooks = cfg.get("default_hooks") or {}
    known = [name for name, hook in hooks.items() if hook is None or "type" in hook]
    for name in hooks:
        if name not in known:
            yield f"default_hooks.{name} has no `type`{_nearest(name, known)}"


def _entries(node: object, path: str) -> Iterator[str]:
    """Faults of every dictionary with a type, at or below ``node``."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _entries(child, f"{path}[{index}]")
    elif isinstance(node, Mapping):
        if "type" in node:
            yield from _arguments(node, path)
        for key, child in node.items():
            yield from _entries(child, f"{path}.{key}")


def _arguments(node: Mapping[str, Any], path: str) -> Iterator[str]:
    """Faults of one dictionary: its type is unknown, or takes none of these arguments."""
    kinds = _kinds(node["type"])
    if not kinds:
        known = {name for registry in _REGISTRIES for name in registry.module_dict}
        yield f"{path}.type: no class is named {node['type']!r}{_nearest(str(node['type']), known)}"
        return
    faults: list[str] = []
    for kind in kinds:
        known, anything = _parameters(kind)
        unknown = [key for key in node if key not in known | _OF_BUILDERS]
        if anything:
            unknown = [key for key in unknown if get_close_matches(key, known, 1, _VERY_ALIKE)]
        if not unknown:
            return
        faults = faults or [
            f"{path}.{key}: {kind.__name__} takes no {key!r}{_nearest(key, known)}"
            for key in unknown
        ]
    yield from faults


def _kinds(kind: object) -> list[Any]:
    """What a config's ``type`` may mean, in whichever registry."""
    if not isinstance(kind, str):
        return [kind]
    found = []
    for registry in _REGISTRIES:
        value = registry.get(kind)
        if value is not None and value not in found:
            found.append(value)
    return found


def _parameters(kind: Any) -> tuple[set[str], bool]:
    """Names of the arguments of a class or function, and whether it takes any others, too."""
    known: set[str] = set()
    for owner in kind.__mro__ if inspect.isclass(kind) else [kind]:
        function = vars(owner).get("__init__") if inspect.isclass(kind) else owner
        if function is None or owner is object:
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return known, True
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        known |= {p.name for p in named}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return known, False
    return known, True


def _nearest(key: str, known: Collection[str]) -> str:
    near = get_close_matches(key, sorted(known), 1, _ALIKE)
    return f"; did you mean {near[0]!r}?" if near else ""
