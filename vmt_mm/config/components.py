"""The components of a config: their paths, their classes, and the arguments of these classes."""

import functools
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from mmengine.registry import FUNCTIONS, Registry
from mmengine.runner import Runner

import vmt_mm.registry as registries
from vmt_mm.config.tree import LOADERS, walk
from vmt_mm.errors import InputError

#: Known top-level keys, in addition to those of ``DEFAULTS``.
TOP_LEVEL = {
    *inspect.signature(Runner).parameters,
    *("runner_type", "custom_imports", "compile", "find_unused_parameters", "model_wrapper_cfg"),
    *("sync_bn", "activation_checkpointing", "efficient_conv_bn_eval"),
    *("total_batch_size", "task", "protocol", "tta_model", "tta_pipeline"),
}
#: Key in a config -> registry of the component below it.
_PLACES = {
    **dict.fromkeys(("model", "backbone", "head", "task_heads", "tta_model"), registries.MODELS),
    **dict.fromkeys(("peft", "method"), registries.PEFT_METHODS),
    "weighting": registries.WEIGHTINGS,
    **dict.fromkeys(("dataset", "datasets"), registries.DATASETS),
    **dict.fromkeys(("pipeline", "tta_pipeline"), registries.TRANSFORMS),
    **dict.fromkeys(("default_hooks", "custom_hooks"), registries.HOOKS),
    "tasks": registries.TASKS,
    "sampler": registries.DATA_SAMPLERS,
    "optimizer": registries.OPTIMIZERS,
    "constructor": registries.OPTIM_WRAPPER_CONSTRUCTORS,
    "param_scheduler": registries.PARAM_SCHEDULERS,
}
REGISTRIES = [r for r in vars(registries).values() if isinstance(r, Registry)] + [FUNCTIONS]
#: Scopes that a config of unknown origin may use, as in ``scope.Class``.
_SCOPES = ["vmt_mm", "mmengine", "mmcv", "mmseg", "mmpretrain", "mmdet"]


def components(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any, list[Any]]]:
    """Yield path, config and possible classes of every entry with a ``type``."""
    for path, node in walk(dict(cfg.items())):
        # the builders of norm_cfg, init_cfg, losses etc. take further arguments
        if path and "type" in node and not re.search(r"\.\w*_cfg\b|\btasks\.\w+\.loss\b", path):
            yield path, node, find_kinds(node["type"], registries_for(path))


def registries_for(path: str) -> list[Registry]:
    """Return the registry for the component at a path; all registries if the path does not say."""
    names = re.sub(r"\[\d+\]", "", path).split(".")
    has_name = names[-2:-1] and names[-2] in ("task_heads", "tasks", "default_hooks")
    place = names[-2] if has_name else names[-1]
    known = place in _PLACES and (place != "sampler" or names[0] in LOADERS)  # heads: of pixels
    return [_PLACES[place]] if known else REGISTRIES


def names_in(*where: Registry) -> set[str]:
    """Return all names in these registries and their parents."""
    return {n for r in where for n in (*r.module_dict, *(names_in(r.parent) if r.parent else ()))}


def find_kinds(kind: Any, where: Collection[Registry]) -> list[Any]:
    """Return the classes that a config's ``type`` may name in these registries."""
    if not isinstance(kind, str):
        return [kind]
    found = [r.get(kind) if "." in kind else find_registered(r, kind) for r in where]
    return [x for index, x in enumerate(found) if x is not None and x not in found[:index]]


def find_registered(registry: Registry | None, name: str) -> Any:
    """Look up a name; unlike ``Registry.get``, never import a module of that name."""
    while registry is not None:
        registry.import_from_location()
        if name in registry.module_dict:
            return registry.module_dict[name]
        registry = registry.parent
    return None


def check_types(config: Mapping[str, Any], source: str) -> None:
    """Raise InputError if a config names an unregistered class, which mmengine would import."""
    for path, entry in walk(config):
        if (scope := entry.get("_scope_", "vmt_mm")) not in _SCOPES:
            raise InputError(f"{source}: {path}._scope_ must be one of {_SCOPES}, got {scope!r}")
        kind = entry.get("type") if path else None
        scope, _, name = kind.rpartition(".") if isinstance(kind, str) else ("", "", "")
        try:
            where = vars(import_module(f"{scope}.registry")).values() if scope in _SCOPES else ()
        except ImportError:  # not installed, or without a `registry` module
            where = ()
        found = [r for r in where if isinstance(r, Registry)] if scope else REGISTRIES
        if name and not any(find_registered(registry, name) for registry in found):
            near = nearest(name, names_in(*REGISTRIES)) or "; import your own classes first"
            raise InputError(f"{source}: its config's {path}.type {kind!r} is not registered{near}")


def parameters_of(kind: Any) -> tuple[dict[str, Any], bool]:
    """Return the default per argument of a class or function, and whether it takes others."""
    known: dict[str, Any] = {}
    functions = [vars(c).get("__init__") for c in getattr(kind, "__mro__", ())] or [kind]
    for function in filter(None, functions):
        try:
            parameters = _signature(function).parameters.values()
        except (TypeError, ValueError):
            return known, True
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        known = {p.name: None if p.default is p.empty else p.default for p in named} | known
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return known, getattr(kind, "forwards_arguments", False)
    return known, True


@functools.cache
def _signature(function: Any) -> inspect.Signature:
    """Return a function's signature, cached: signatures take most of the time of the check."""
    return inspect.signature(function)


def nearest(key: str, known: Collection[str], cutoff: float = 0.6) -> str:
    """Return the end of a message that suggests the nearest known name, or an empty string."""
    near = get_close_matches(key, sorted(known), 1, cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""
