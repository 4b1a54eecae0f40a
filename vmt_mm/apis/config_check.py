"""Find config keys that nothing reads, before anything is built.

mmengine accepts any key: a misspelt one leaves the default in force, silently, or ends in a
traceback of the class that does not know it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.registry import FUNCTIONS, Registry
from mmengine.runner import LogProcessor, Runner
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
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
#: Dictionaries without a type, and what may stand in them.
_UNTYPED = {
    "train_dataloader": _OF_LOADERS,
    "val_dataloader": _OF_LOADERS,
    "test_dataloader": _OF_LOADERS,
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
    "log_processor": {*inspect.signature(LogProcessor).parameters, "type"},
    "optim_wrapper.clip_grad": {
        *inspect.signature(clip_grad_norm_).parameters,
        *inspect.signature(clip_grad_value_).parameters,
        "type",
    },
}
#: What a type must be, by the key that holds it (or the key above, for those with any names below).
_PLACES = {
    "model": registries.MODELS,
    "backbone": registries.MODELS,
    "head": registries.MODELS,
    "task_heads": registries.MODELS,
    "tasks": registries.TASKS,
    "peft": registries.PEFT_METHODS,
    "dataset": registries.DATASETS,
    "sampler": registries.DATA_SAMPLERS,
    "pipeline": registries.TRANSFORMS,
    "optimizer": registries.OPTIMIZERS,
    "param_scheduler": registries.PARAM_SCHEDULERS,
    "default_hooks": registries.HOOKS,
    "custom_hooks": registries.HOOKS,
}
_WITH_NAMES_BELOW = ("task_heads", "tasks", "default_hooks")
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
    cfg = dict(cfg.items())
    faults = [*_top_level(cfg, options), *_hooks(cfg)]
    for path, known in _UNTYPED.items():
        faults.extend(_untyped(cfg, path, known))
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


def _untyped(cfg: Mapping[str, Any], path: str, known: set[str]) -> Iterator[str]:
    """Faults of a dictionary that needs no type, since its place says what it is."""
    node: Any = cfg
    for name in path.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    for key in node if isinstance(node, Mapping) else ():
        if key not in known:
            yield f"{path} takes no {key!r}{_nearest(key, known)}"


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
    registries_here = _registries_for(path)
    kinds = _kinds(node["type"], registries_here)
    if not kinds:
        known = {name for registry in registries_here for name in _names(registry)}
        what = registries_here[0].name if len(registries_here) == 1 else "class"
        name = str(node["type"])
        yield f"{path}.type: no {what} is named {name!r}{_nearest(name, known)}"
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


def _registries_for(path: str) -> list[Registry]:
    """The registry that a path asks for; all of them where any will do."""
    names = re.sub(r"\[\d+\]", "", path).split(".")
    above = names[-2] if names[-2:-1] and names[-2] in _WITH_NAMES_BELOW else names[-1]
    return [_PLACES[above]] if above in _PLACES else _REGISTRIES


def _names(registry: Registry) -> set[str]:
    """Names in a registry and in those that it asks next."""
    return set(registry.module_dict) | (_names(registry.parent) if registry.parent else set())


def _kinds(kind: object, where: Collection[Registry]) -> list[Any]:
    """What a config's ``type`` may mean, in these registries."""
    if not isinstance(kind, str):
        return [kind]
    found = []
    for registry in where:
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
