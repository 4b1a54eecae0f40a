"""The keys of state dicts: what their parts mean, and how two sets of entries differ."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vmt_mm.errors import InputError

#: Prefixes of a model's keys.
BACKBONE, HEADS = "backbone.", "heads."
#: Prefix of the PEFT method's own parameters in a backbone.
PEFT = "peft."
#: Prefix of the keys of an average, as mmengine's ``EMAHook`` stores it.
AVERAGED = "module."
#: Of wrappers that compile, which may be around any part of a model, or distribute.
_COMPILED, _DISTRIBUTED = re.compile(r"(^|\.)(_orig_mod\.)+"), re.compile(r"^(module\.)+")


def is_recomputed(key: str) -> bool:
    """Whether the model computes this tensor, so that a file need not hold it."""
    return key.endswith("relative_position_index")


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes of wrappers, and without what precedes ``heads.``."""
    plain = {_DISTRIBUTED.sub("", _COMPILED.sub(r"\1", str(k))): v for k, v in state.items()}
    before = {k.partition(f".{HEADS}")[0] + "." for k in plain if f".{HEADS}" in k}
    if len(before) == 1 and not any(k.startswith(HEADS) for k in plain):
        plain = {k.removeprefix(*before): v for k, v in plain.items()}
    return plain


def some(names: Sequence[str], separator: str = ", ") -> str:
    """The first four of a list, in words."""
    return separator.join(names[:4]) + f"{separator}..." * (len(names) > 4)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What differs of the entries that both have: "KEY: A in the checkpoint, B in the config"."""
    return [
        f"{key}: {_plain(theirs[key])!r} in the checkpoint, {_plain(value)!r} in the config"
        for key, value in ours.items()
        if key in theirs and _plain(theirs[key]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """Tuples as lists, tensors of one number as the number."""
    text = json.dumps(value, default=lambda x: x.item() if hasattr(x, "item") else str(x))
    return json.loads(text)


def key_faults(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    may_miss: Callable[[str], object] = is_recomputed,
) -> list[str]:
    """What is missing in ``state``, unknown, or of another shape; empty if it fits ``own``."""
    shapes = [
        f"{k} {tuple(v.shape)} (model: {tuple(own[k].shape)})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    missing = sorted(k for k in own if k not in state and not may_miss(k))
    unknown = sorted(state.keys() - own.keys())
    faults = {"missing": missing, "unknown": unknown, "differently sized": shapes}
    return [f"{len(keys)} {what} key(s): {some(keys)}" for what, keys in faults.items() if keys]


def check_finite(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError if a tensor to be loaded holds NaN, or infinity where the model has none."""
    for key, value in state.items():
        if key not in own or not value.is_floating_point() or value.isfinite().all():
            continue
        if value.isnan().any() or own[key].isfinite().all():  # a mask may be infinite
            count = int((~value.isfinite()).sum())
            raise InputError(
                f"{source}: {key} holds {count} NaN or infinite value(s) of {value.numel()}; take "
                "a checkpoint from before the training diverged"
            )


def task_of_keys(keys: Iterable[str], tasks: Collection[str]) -> dict[str, str]:
    """Key -> the task that it serves alone; keys that serve all tasks are left out."""
    return {key: key.split(".")[place] for key, place in places_of_tasks(keys, tasks).items()}


def places_of_tasks(keys: Iterable[str], tasks: Collection[str]) -> dict[str, int]:
    """Key in a container whose entries are exactly the tasks -> which dotted part is the task."""
    split = {key: tuple(key.split(".")) for key in keys}
    entries: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for parts in split.values():
        for depth, part in enumerate(parts):
            entries[parts[:depth]].add(part)
    places: dict[str, int] = {}
    for key, parts in split.items():
        for depth in range(len(parts)):
            if key not in places and entries[parts[:depth]] == set(tasks):
                places[key] = depth
    return places
