"""Refuse config keys that nothing reads, before anything is built.

mmengine accepts any key: a misspelt one would silently leave the default in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from mmengine import runner
from mmengine.dist import init_dist
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
#: Read by a builder before the class of the same entry sees it.
_OF_BUILDERS = {"type", "_scope_", "constructor", "paramwise_cfg", "priority"}
_OF_BUILDERS |= {"convert_to_iter_based"}
#: Of MMSegmentation before 1.0.
_OLD = {"resume_from", "total_epochs", "lr_config", "momentum_config", "optimizer_config"}
_OLD |= {"evaluation", "checkpoint_config", "log_config", "dist_params"}


def _arguments(*functions: Any) -> set[str]:
    return {name for function in functions for name in signature(function).parameters}


#: Entries that need no type -> what they may hold.
_UNTYPED = {
    **dict.fromkeys(LOADERS, _arguments(DataLoader) - {"shuffle"} | {"num_batch_per_epoch"}),
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": _arguments(set_multi_processing),
    "env_cfg.dist_cfg": _arguments(init_dist, init_process_group),
    "train_cfg": _arguments(runner.EpochBasedTrainLoop, runner.IterBasedTrainLoop) | {"by_epoch"},
    "val_cfg": _arguments(runner.ValLoop),
    "test_cfg": _arguments(runner.TestLoop),
    "randomness": _arguments(runner.Runner.set_randomness),
    "log_processor": _arguments(runner.LogProcessor) | {"type"},
    "optim_wrapper.clip_grad": _arguments(clip_grad_norm_, clip_grad_value_) | {"type"},
}


def check_keys(cfg: Mapping[str, Any], options: Collection[str] = ()) -> None:
    """Raise InputError for keys and types that nothing knows, with the nearest right ones.

    In a file, a top-level variable may have any name that is not nearly a known one.

    Args:
        cfg: the merged config.
        options: top-level keys that the options brought in.
    """
    cfg, known = dict(cfg.items()), known_keys()
    entries = list(components({key: value for key, value in cfg.items() if key in known}))
    faults = [*_top_level(cfg, known, options), *_untyped(cfg), *unfit_faults(cfg, entries)]
    for entry in entries:
        faults.extend(_entry(*entry))
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))


def _top_level(cfg: Mapping, known: Collection[str], options: Collection[str]) -> Iterator[str]:
    for key in (key for key in cfg if key not in known):
        if key in options:
            yield f"option {key!r} reaches nothing{nearest(key, {*known, *cfg} - {key})}"
        elif key in _OLD:
            yield f"{key!r} is of MMSegmentation before 1.0, and reaches nothing"
        elif key != "test_pipeline" and get_close_matches(key, known, 1, _SIMILAR):
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
        unknown = [key for key in node if key not in {*known, *_OF_BUILDERS} or key in unread]
        if anything:
            unknown = [
                k for k in unknown if k in unread or get_close_matches(k, known, 1, _SIMILAR)
            ]
        faults.append([])
        for key in unknown:
            hint = f"; {unread[key]}" if key in unread else nearest(key, known)
            hint = hint or " (a base file's settings of another type are left out by _delete_=True)"
            faults[-1].append(f"{path}.{key}: {kind.__name__} takes no {key!r}{hint}")
    yield from min(faults, key=len, default=[])
