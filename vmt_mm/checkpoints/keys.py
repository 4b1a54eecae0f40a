"""Keys of state dicts: their prefixes, and comparison of two state dicts or descriptions."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from vmt_mm.errors import InputError

#: Prefixes of a model's keys.
BACKBONE, HEADS = "backbone.", "heads."
#: Prefix of the PEFT method's parameters in a backbone.
PEFT = "peft."
#: Prefix of the keys of averaged parameters, as mmengine's ``EMAHook`` stores them.
AVERAGED = "module."
#: Prefixes of ``torch.compile``, which may wrap any part of a model, and of distributed wrappers.
_COMPILED, _DISTRIBUTED = re.compile(r"(^|\.)(_orig_mod\.)+"), re.compile(r"^(module\.)+")


def is_recomputed(key: str) -> bool:
    """Whether the model recomputes this tensor, so that files may lack it."""
    return key.endswith("relative_position_index")


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes of wrappers, and any common prefix before ``heads.``, from the keys."""
    plain = {_DISTRIBUTED.sub("", _COMPILED.sub(r"\1", str(k))): v for k, v in state.items()}
    before = {k.partition(f".{HEADS}")[0] + "." for k in plain if f".{HEADS}" in k}
    if len(before) == 1 and not any(k.startswith(HEADS) for k in plain):
        plain = {k.removeprefix(*before): v for k, v in plain.items()}
    return plain


def some(names: Sequence[str], separator: str = ", ") -> str:
    """Join the first four names."""
    return separator.join(names[:4]) + f"{separator}..." * (len(names) > 4)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Describe differing common entries: "KEY: A in the checkpoint, B in the config"."""
    return [
        f"{key}: {_plain(theirs[key])!r} in the checkpoint, {_plain(value)!r} in the config"
        for key, value in ours.items()
        if key in theirs and _plain(theirs[key]) != _plain(value)
    ]


def _plain(value: Any) -> Any:
    """Convert tuples to lists and scalar tensors to numbers."""
    text = json.dumps(value, default=lambda x: x.item() if hasattr(x, "item") else str(x))
    return json.loads(text)


def key_faults(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    may_miss: Callable[[str], object] = is_recomputed,
) -> list[str]:
    """Describe missing and unexpected keys and wrong shapes; empty if ``state`` fits ``own``."""
    shapes = [
        f"{k} {tuple(v.shape)} (model: {tuple(own[k].shape)})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    missing = sorted(k for k in own if k not in state and not may_miss(k))
    unexpected = sorted(state.keys() - own.keys())
    faults = {"missing": missing, "unexpected": unexpected, "mismatched": shapes}
    return [f"{len(keys)} {what} key(s): {some(keys)}" for what, keys in faults.items() if keys]


def check_finite(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError if a tensor to load has NaN, or has infinity where the model has none."""
    for key, value in state.items():
        if key not in own or not value.is_floating_point() or value.isfinite().all():
            continue
        if value.isnan().any() or own[key].isfinite().all():  # a mask may be infinite
            count = int((~value.isfinite()).sum())
            problem = f"{key} has {count} NaN or infinite value(s) of {value.numel()}"
            advice = "use a checkpoint from before training diverged"
            raise InputError(f"{source}: {problem}; {advice}")


def task_of_keys(keys: Iterable[str], tasks: Collection[str]) -> dict[str, str]:
    """Map the keys that belong to a single task to that task."""
    return {key: key.split(".")[place] for key, place in places_of_tasks(keys, tasks).items()}


def places_of_tasks(keys: Iterable[str], tasks: Collection[str]) -> dict[str, int]:
    """Map keys to the index of the dotted part that names a task: its siblings are the tasks."""
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
