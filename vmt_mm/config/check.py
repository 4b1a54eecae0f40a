"""Refuse config keys that nothing reads, before anything is built.

mmengine accepts any key: a misspelt one would silently leave the default in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from mmengine.dist import init_dist
from mmengine.runner import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from vmt_mm.config.components import components, names_in, nearest, parameters_of, registries_for
from vmt_mm.config.defaults import known_keys
from vmt_mm.config.tree import LOADERS
from vmt_mm.config.unfit import unfit_faults
from vmt_mm.errors import InputError

#: How similar a free name must be to a known one to be taken for a slip.
_SIMILAR = 0.85
#: Keys of MMSegmentation before 1.0 -> what to use.
_OLD = {
    "resume_from": "load_from=FILE and resume=True",
    "total_epochs": "train_cfg.max_epochs",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "optimizer_config": "optim_wrapper",
    "evaluation": "train_cfg.val_interval, and default_hooks.checkpoint.save_best",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger",
    "dist_params": "env_cfg.dist_cfg",
}
#: Read by a builder before the class of the same entry sees it.
_OF_BUILDERS = {"type", "_scope_", "_delete_", "constructor", "paramwise_cfg", "priority"}
_OF_BUILDERS |= {"convert_to_iter_based"}


def _arguments(*functions: Any, more: Collection[str] = ()) -> set[str]:
    return {name for function in functions for name in signature(function).parameters} | {*more}


_OF_LOADERS = _arguments(DataLoader, more=("num_batch_per_epoch", "disable_subprocess_warning"))
#: Entries that need no type -> what they may hold.
_UNTYPED = {
    **dict.fromkeys(LOADERS, _OF_LOADERS - {"shuffle"}),  # a sampler does that
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": _arguments(set_multi_processing),
    "env_cfg.dist_cfg": _arguments(init_dist, init_process_group),
    "train_cfg": _arguments(EpochBasedTrainLoop, IterBasedTrainLoop, more=["by_epoch"]),
    "val_cfg": _arguments(ValLoop),
    "test_cfg": _arguments(TestLoop),
    "randomness": _arguments(Runner.set_randomness),
    "log_processor": _arguments(LogProcessor, more=["type"]),
    "optim_wrapper.clip_grad": _arguments(clip_grad_norm_, clip_grad_value_, more=["type"]),
}


def check_keys(cfg: Mapping[str, Any], options: Collection[str] = ()) -> None:
    """Raise InputError for keys and types that nothing knows, with the nearest right ones.

    In a file, a top-level variable may have any name that is not nearly a known one.

    Args:
        cfg: the merged config.
        options: top-level keys that the options brought in.
    """
    cfg = dict(cfg.items())
    known = known_keys()
    read = {key: value for key, value in cfg.items() if key in known}
    faults = [*_top_level(cfg, known, options), *_untyped(cfg), *unfit_faults(cfg)]
    for path, node, kinds in components(read):
        faults.extend(_entry(path, node, kinds))
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))


def _top_level(cfg: Mapping, known: Collection[str], options: Collection[str]) -> Iterator[str]:
    for key in (key for key in cfg if key not in known):
        if key in options:
            yield f"option {key!r} reaches nothing{nearest(key, {*known, *cfg} - {key})}"
        elif key in _OLD:
            yield f"{key!r} is of MMSegmentation before 1.0, and reaches nothing; set {_OLD[key]}"
        elif key != "test_pipeline" and get_close_matches(key, known, 1, _SIMILAR):  # tta_pipeline
            yield (
                f"the config's top-level {key!r} reaches nothing{nearest(key, known)} (a variable "
                "of your own needs a name less alike)"
            )


def _untyped(cfg: Mapping[str, Any]) -> Iterator[str]:
    """Yield faults of entries without a type."""
    for path, known in _UNTYPED.items():
        node: Any = cfg
        for name in path.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and ("type" not in node or "type" in known):
            for key in (key for key in node if key not in known):
                hint = "; set sampler.shuffle" if key == "shuffle" else nearest(key, known)
                yield f"{path} takes no {key!r}{hint}"
    hooks = cfg.get("default_hooks") or {}
    known = {name for name, hook in hooks.items() if hook is None or "type" in hook}
    for name in (name for name in hooks if name not in known):
        yield f"default_hooks.{name} has no `type`{nearest(name, known)}"
    backbone = (cfg.get("model") or {}).get("backbone") or {}
    if cfg.get("activation_checkpointing") and "peft" in backbone:  # gradients would be wrong
        yield (
            "activation_checkpointing does not go with a PEFT method; set "
            "model.backbone.with_cp=True instead"
        )


def _entry(path: str, node: Mapping[str, Any], kinds: list[Any]) -> Iterator[str]:
    """Yield faults of a component: no class of its type takes these arguments."""
    if not kinds:
        where = registries_for(path)
        known = {name for registry in where for name in names_in(registry)}
        what, name = where[0].name if len(where) == 1 else "class", str(node["type"])
        yield f"{path}.type: no {what} is named {name!r}{nearest(name, known)}"
    faults: list[list[str]] = []
    for kind in kinds:
        (known, anything), unread = parameters_of(kind), getattr(kind, "unread", {})
        name = getattr(kind, "__name__", str(kind))
        unknown = [key for key in node if key not in {*known, *_OF_BUILDERS} or key in unread]
        if anything:
            unknown = [
                k for k in unknown if k in unread or get_close_matches(k, known, 1, _SIMILAR)
            ]
        other = " (a base file's settings of another type are left out by _delete_=True)"
        faults.append(
            [
                f"{path}.{key}: {name} takes no {key!r}"
                + (f"; {unread[key]}" if key in unread else nearest(key, known) or other)
                for key in unknown
            ]
        )
    yield from min(faults, key=len, default=[])
