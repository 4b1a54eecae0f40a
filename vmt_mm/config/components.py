"""The components of a config: where they are, which class each names, and what that takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from mmengine.registry import FUNCTIONS, Registry
from mmengine.runner import Runner

import vmt_mm.registry as registries
from vmt_mm.config.tree import LOADERS, walk

#: Keys that the runner, `load_config` or `tools/test.py --tta` reads, besides those of the table
#: of defaults.
TOP_LEVEL = {
    *inspect.signature(Runner).parameters,
    *("runner_type", "custom_imports", "compile", "find_unused_parameters", "model_wrapper_cfg"),
    *("sync_bn", "activation_checkpointing", "efficient_conv_bn_eval"),
    *("total_batch_size", "task", "protocol", "tta_model", "tta_pipeline"),
}
#: Registry of a component, by the key that holds it.
_PLACES = {
    **dict.fromkeys(("model", "backbone", "head", "task_heads", "tta_model"), registries.MODELS),
    **dict.fromkeys(("peft", "method"), registries.PEFT_METHODS),
    **dict.fromkeys(("dataset", "datasets"), registries.DATASETS),
    **dict.fromkeys(("pipeline", "tta_pipeline"), registries.TRANSFORMS),
    **dict.fromkeys(("default_hooks", "custom_hooks"), registries.HOOKS),
    "tasks": registries.TASKS,
    "sampler": registries.DATA_SAMPLERS,
    "optimizer": registries.OPTIMIZERS,
    "param_scheduler": registries.PARAM_SCHEDULERS,
}
#: Those whose components have names.
_NAMED = ("task_heads", "tasks", "default_hooks")
REGISTRIES = [r for r in vars(registries).values() if isinstance(r, Registry)] + [FUNCTIONS]


def components(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield path, config and possible classes of every entry with a ``type``.

    Entries below ``norm_cfg``, ``init_cfg`` and the like are left out: their builders take more.
    """
    for path, node in walk(dict(cfg.items())):
        if path and "type" in node and not re.search(r"\.\w*_cfg\b", path):
            yield path, node, find_kinds(node["type"], registries_for(path))


def registries_for(path: str) -> list[Registry]:
    """Return the registry that a path asks for, or all of them."""
    names = re.sub(r"\[\d+\]", "", path).split(".")
    place = names[-2] if names[-2:-1] and names[-2] in _NAMED else names[-1]
    if place == "sampler" and names[0] not in LOADERS:  # of a head's pixels
        return REGISTRIES
    return [_PLACES[place]] if place in _PLACES else REGISTRIES


def names_in(registry: Registry) -> set[str]:
    """Return the names in a registry and in its parents."""
    return set(registry.module_dict) | (names_in(registry.parent) if registry.parent else set())


def find_kinds(kind: Any, where: Collection[Registry]) -> list[Any]:
    """Return what a config's ``type`` may mean in these registries."""
    if not isinstance(kind, str):
        return [kind]
    found: list[Any] = []
    for registry in where:
        value = registry.get(kind) if "." in kind else find_registered(registry, kind)
        if value is not None and value not in found:
            found.append(value)
    return found


def find_registered(registry: Registry | None, name: str) -> Any:
    """Look a name up without importing a module of that name, as ``Registry.get`` would."""
    while registry is not None:
        registry.import_from_location()
        if name in registry.module_dict:
            return registry.module_dict[name]
        registry = registry.parent
    return None


def parameters_of(kind: Any) -> tuple[dict[str, Any], bool]:
    """Return argument -> default of a class or function, and whether it takes any others, too."""
    known: dict[str, Any] = {}
    owners = (
        [vars(c)["__init__"] for c in kind.__mro__[:-1] if "__init__" in vars(c)]
        if (inspect.isclass(kind))
        else [kind]
    )
    for function in owners:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):
            return known, True
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        known = {p.name: None if p.default is p.empty else p.default for p in named} | known
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return known, False
    return known, True


def nearest(key: str, known: Collection[str]) -> str:
    """Return the nearest known name as the end of a message, or an empty string."""
    near = get_close_matches(key, sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
