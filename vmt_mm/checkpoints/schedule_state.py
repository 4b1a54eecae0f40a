"""The state of schedules, kept by what they schedule and how."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.optim import _ParamScheduler

#: Arguments that say nothing of what is scheduled.
_NOT_IDENTITY = {"self", "optimizer", "last_step", "verbose", "args", "kwargs"}
#: Arguments that follow from the training's length, where a config sets no ``end``.
_OF_LENGTH = {"end", "total_iters", "total_steps", "T_max"}
#: One value for each group of the optimizer.
_BY_GROUP = {"base_values", "_last_value", "min_values"}
_KIND = "kind"


def save_schedules(schedulers: Sequence[_ParamScheduler]) -> list[dict[str, Any]]:
    """The states of schedulers, each with the name of its class; without functions."""
    return [
        {**{k: v for k, v in s.state_dict().items() if not callable(v)}, _KIND: type(s).__name__}
        for s in schedulers
    ]


def match_schedules(
    saved: Sequence[Mapping[str, Any]],
    own: Sequence[_ParamScheduler],
    order: Sequence[int],
    lengths: Collection[int],
) -> list[dict[str, Any]]:
    """The saved state of each scheduler, whatever their order.

    A schedule that ends with the training goes on as it was planned, however long the training is
    now.

    Args:
        saved: what :func:`save_schedules` gave, or an earlier version's states, without classes.
        own: the schedulers, as their config makes them.
        order: for each group of the optimizer, its position among the saved ones.
        lengths: of the training, in epochs and in iterations.

    Raises:
        ValueError: if the schedules are other ones.
    """
    left, states = list(saved), []
    unmatched = []
    for scheduler in own:
        found = next((s for s in left if not _differing(s, scheduler, lengths)), None)
        if found is None:
            unmatched.append(scheduler)
            continue
        left.remove(found)
        state = {key: value for key, value in found.items() if key != _KIND}
        for key in _BY_GROUP & state.keys():
            values = list(state[key])
            state[key] = [values[i] for i in order] + values[len(order) :]
        states.append(state)
    if unmatched or left:
        raise ValueError(_in_words(left, unmatched, lengths))
    return states


def _constants(scheduler: _ParamScheduler) -> dict[str, Any]:
    """The arguments with which a scheduler was made, as far as it keeps them."""
    names = {
        name
        for kind in type(scheduler).__mro__
        if "__init__" in vars(kind) and kind is not object
        for name in inspect.signature(kind.__init__).parameters
    }
    state = scheduler.state_dict()
    return {name: state[name] for name in sorted(names - _NOT_IDENTITY) if name in state}


def _differing(
    saved: Mapping[str, Any], scheduler: _ParamScheduler, lengths: Collection[int]
) -> list[str]:
    """Names of what a saved scheduler has otherwise."""
    own = _constants(scheduler)
    if saved.get(_KIND, type(scheduler).__name__) != type(scheduler).__name__:
        return [_KIND]
    differing = [key for key in own if key not in saved or _plain(saved[key]) != _plain(own[key])]
    if "end" in differing and own["end"] in lengths:
        differing = [key for key in differing if key not in _OF_LENGTH]
    return differing


def _in_words(
    left: Sequence[Mapping[str, Any]],
    unmatched: Sequence[_ParamScheduler],
    lengths: Collection[int],
) -> str:
    """Which schedules of the checkpoint, and which of the config, have no other side."""
    if len(left) == len(unmatched) == 1:
        (saved,), (scheduler,) = left, unmatched
        differing = _differing(saved, scheduler, lengths)
        if differing != [_KIND]:
            values = dict(_constants(scheduler))
            parts = [f"{k}={saved.get(k)!r} there, {values[k]!r} here" for k in differing]
            return f"its schedule {type(scheduler).__name__} has {', '.join(parts)}"
    theirs = [s.get(_KIND, "one of an unknown class") for s in left]
    ours = [type(s).__name__ for s in unmatched]
    return f"its schedules are others: {theirs or 'none'} there, {ours or 'none'} here"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (list, tuple)) else value
