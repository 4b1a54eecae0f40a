"""Read the keys of state dicts: how they differ from a model's, and which belong to one task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from torch import Tensor

from vmt_mm.errors import InputError

_SHOWN = 4


def key_faults(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    may_miss: Callable[[str], object],
) -> list[str]:
    """List in words what misses, what is unknown and what has another shape; empty if all fits.

    Args:
        own: the model's state dict.
        state: what is to be loaded.
        may_miss: whether a key of the model may be absent.
    """
    missing = sorted(k for k in own if k not in state and not may_miss(k))
    unknown = sorted(k for k in state if k not in own)
    shapes = [
        f"{k} {tuple(v.shape)} (model: {tuple(own[k].shape)})"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    named = (("missing", missing), ("unknown", unknown), ("differently sized", shapes))
    return [
        f"{len(keys)} {what} key(s): {', '.join(keys[:_SHOWN])}{', ...' * (len(keys) > _SHOWN)}"
        for what, keys in named
        if keys
    ]


def check_finite(own: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    """Raise InputError if a tensor that is to be loaded holds NaN, or infinity the model has not.

    Args:
        own: the model's state dict.
        state: what is to be loaded.
        source: its file, for the message.
    """
    wrong = [key for key, value in state.items() if key in own and _is_broken(value, own[key])]
    if wrong:
        values = state[wrong[0]]
        raise InputError(
            f"{source}: {len(wrong)} tensor(s) hold NaN or infinite values, the first is "
            f"{wrong[0]} ({int((~values.isfinite()).sum())} of {values.numel()} values); take a "
            "checkpoint from before the training went wrong"
        )


def _is_broken(value: Tensor, own: Tensor) -> bool:
    if not value.is_floating_point() or bool(value.isfinite().all()):
        return False
    return bool(value.isnan().any()) or bool(own.isfinite().all())  # a mask may be infinite


def task_of_keys(keys: Iterable[str], tasks: Collection[str]) -> dict[str, str]:
    """Key -> the task that it serves alone; keys that serve all tasks are left out.

    What belongs to one task stands in a container whose entries are the tasks, no more and no
    fewer: ``heads.<task>...``, ``peft.blocks.0.alpha.<task>``.

    Args:
        keys: all keys of a model, or of what was added to its frozen encoder.
        tasks: names of its tasks.
    """
    places = _places_of_tasks(keys, tasks)
    return {key: key.split(".")[place] for key, place in places.items()}


def edit_keys(
    keys: Iterable[str], tasks: Collection[str], renamed: Mapping[str, str]
) -> dict[str, str]:
    """Key -> the key that it becomes once tasks are renamed; those of tasks without a name go.

    Args:
        keys: see :func:`task_of_keys`.
        tasks: see :func:`task_of_keys`.
        renamed: name -> name of every task that stays.
    """
    keys = list(keys)
    places, edited = _places_of_tasks(keys, tasks), {}
    for key in keys:
        parts = key.split(".")
        place = places.get(key)
        if place is not None:
            if parts[place] not in renamed:
                continue
            parts[place] = renamed[parts[place]]
        edited[key] = ".".join(parts)
    return edited


def _places_of_tasks(keys: Iterable[str], tasks: Collection[str]) -> dict[str, int]:
    """Key that serves one task alone -> which of its dotted parts is the task."""
    keys, names = list(keys), set(tasks)
    entries: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for key in keys:
        parts = tuple(key.split("."))
        for depth, part in enumerate(parts):
            entries[parts[:depth]].add(part)
    places = {}
    for key in keys:
        parts = tuple(key.split("."))
        for depth, part in enumerate(parts):
            if part in names and entries[parts[:depth]] == names:
                places[key] = depth
                break
    return places
