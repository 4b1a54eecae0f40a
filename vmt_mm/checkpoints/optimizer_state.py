"""An optimizer's state by the names of the parameters that it belongs to.

PyTorch numbers parameters by the order in which an optimizer got them, and loads by these numbers.
That order follows the order of tasks in a config, and must decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

#: Options that say how a step is computed, not which; newer PyTorch adds them.
_HOW = {"fused", "foreach", "capturable", "differentiable", "decoupled_weight_decay"}
_NO_OPTIONS = {"params", "param_names"}
_SHOWN = 3


@dataclass(frozen=True)
class OptimizerLayout:
    """What an optimizer is and what it steps.

    Attributes:
        kind: name of its class.
        wrapper: class and options of the wrapper around it.
        groups: names of the parameters of each group, in PyTorch's order.
        options: of each group.
        shapes: name -> shape.
    """

    kind: str
    wrapper: Mapping[str, Any]
    groups: Sequence[Sequence[str]]
    options: Sequence[Mapping[str, Any]]
    shapes: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, wrapper: OptimWrapper, model: nn.Module) -> OptimizerLayout:
        """The layout of an optimizer over parameters of ``model``."""
        optimizer, names = wrapper.optimizer, {id(p): n for n, p in model.named_parameters()}
        groups = [
            [names.get(id(p), f"{place}.{index}") for index, p in enumerate(group["params"])]
            for place, group in enumerate(optimizer.param_groups)
        ]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return cls(
            kind=type(optimizer).__name__,
            wrapper=dict(
                type=type(wrapper).__name__,
                accumulative_counts=wrapper._accumulative_counts,
                clip_grad=dict(wrapper.clip_grad_kwargs or {}),
            ),
            groups=groups,
            options=[
                {key: value for key, value in group.items() if key not in _NO_OPTIONS}
                for group in optimizer.param_groups
            ],
            shapes={n: list(p.shape) for n, p in zip(sum(groups, []), parameters, strict=True)},
        )


def by_name(state: Mapping[str, Any], layout: OptimizerLayout) -> dict[str, Any]:
    """An optimizer's state dict with names in the place of numbers, and what it is the state of.

    Args:
        state: as PyTorch gives it; further entries of the wrapper stay.
        layout: of the optimizer.
    """
    names = sum(layout.groups, [])
    groups = zip(state["param_groups"], layout.groups, strict=True)
    return {
        **state,
        "kind": layout.kind,
        "wrapper": dict(layout.wrapper),
        "shapes": dict(layout.shapes),
        "state": {names[k] if isinstance(k, int) else k: v for k, v in state["state"].items()},
        "param_groups": [{**group, "params": list(own)} for group, own in groups],
    }


def by_position(
    saved: Mapping[str, Any], own: OptimizerLayout, weights: Mapping[str, Tensor]
) -> tuple[dict[str, Any], list[int]]:
    """Undo :func:`by_name` for an optimizer that may have the parameters in another order.

    Args:
        saved: what :func:`by_name` gave, or PyTorch's state dict of an earlier version's
            checkpoint.
        own: layout of the optimizer that is to have it, with its schedules built.
        weights: of the same checkpoint, in their order: they name an earlier version's parameters.

    Returns:
        The state dict for the optimizer, and for each of its groups the saved group's position.

    Raises:
        ValueError: if it is the state of another optimizer, or of other parameters.
    """
    if "kind" not in saved:
        saved = _named(saved, own, weights)
    theirs = saved["param_groups"]
    differences = list(_differences(saved, own))
    if differences:
        raise ValueError("; ".join(differences))
    order = [
        next(i for i, g in enumerate(theirs) if set(g["params"]) == set(n)) for n in own.groups
    ]
    positions = {name: position for position, name in enumerate(sum(own.groups, []))}
    groups = [
        {
            **options,
            **theirs[index],
            **{key: value for key, value in options.items() if key in _HOW},
            "params": [positions[name] for name in names],
        }
        for index, names, options in zip(order, own.groups, own.options, strict=True)
    ]
    rest = {key: saved[key] for key in saved.keys() - {"kind", "wrapper", "shapes"}}
    state = {positions.get(name, name): value for name, value in saved["state"].items()}
    return {**rest, "state": state, "param_groups": groups}, order


def _differences(saved: Mapping[str, Any], own: OptimizerLayout) -> Iterator[str]:
    """What the saved optimizer was otherwise."""
    if saved["kind"] not in (own.kind, None):
        yield f"the optimizer is {saved['kind']} in the checkpoint, {own.kind} in the config"
        return
    known = [_options_of(groups[0]) for groups in (saved["param_groups"], own.options)]
    if saved["kind"] is None and known[0] != known[1]:
        yield f"the optimizer, with {', '.join(known[0])}, is not {own.kind}, as in the config"
        return
    wrapper = saved["wrapper"] or own.wrapper
    for key in own.wrapper:
        if _plain(wrapper.get(key)) != _plain(own.wrapper[key]):
            yield (
                f"optim_wrapper.{key} is {wrapper.get(key)!r} in the checkpoint, "
                f"{own.wrapper[key]!r} in the config"
            )
    theirs, ours = dict(_by_parameter(saved)), dict(_of_layout(own))
    for one, other, place in ((theirs, ours, "checkpoint"), (ours, theirs, "config")):
        if only := sorted(one.keys() - other.keys()):
            yield f"{len(only)} parameter(s) train in the {place} alone: {_some(only)}"
    both = [name for name in ours if name in theirs]
    shapes = saved["shapes"]
    if changed := [n for n in both if list(shapes[n]) != list(own.shapes[n])]:
        name = changed[0]
        yield f"{len(changed)} parameter(s) have another shape: {name} {shapes[name]}"
    options: dict[str, list[str]] = {}
    for name in both:
        for text in _other_options(theirs[name], ours[name]):
            options.setdefault(text, []).append(name)
    for text, names in options.items():
        yield text if len(names) == len(both) else f"{text} (of {_some(names)})"
    grouped = [
        {frozenset(g["params"]) for g in saved["param_groups"]},
        {*map(frozenset, own.groups)},
    ]
    if theirs.keys() == ours.keys() and not options and grouped[0] != grouped[1]:
        yield (
            f"parameters stand in {len(grouped[0])} group(s) in the checkpoint, in "
            f"{len(grouped[1])} other(s) in the config"
        )


def _by_parameter(saved: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for group in saved["param_groups"]:
        for name in group["params"]:
            yield name, group


def _of_layout(layout: OptimizerLayout) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for names, options in zip(layout.groups, layout.options, strict=True):
        for name in names:
            yield name, options


def _options_of(group: Mapping[str, Any]) -> list[str]:
    """Names of a group's options that say which step is taken."""
    return sorted(k for k in group if k not in _HOW | _NO_OPTIONS and "initial_" not in k)


def _other_options(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    """Options of one parameter that differ; of what a schedule changes, the initial values."""
    scheduled = {key.removeprefix("initial_") for key in {**theirs, **ours} if "initial_" in key}
    if "momentum" in scheduled and "betas" in ours:
        scheduled.add("betas")  # mmengine's schedules of Adam's momentum write it there
    for key in _options_of({**theirs, **ours}):
        if not (key in theirs and key in ours) and key not in scheduled:
            continue  # another version of PyTorch, with a default for it
        values = [_plain(o.get(f"initial_{key}", o.get(key))) for o in (theirs, ours)]
        if key in scheduled and not all(f"initial_{key}" in o for o in (theirs, ours)):
            continue  # only one side has a schedule of it: which is said of the schedules
        if values[0] != values[1]:
            yield f"{key} is {values[0]} in the checkpoint, {values[1]} in the config"


def _named(
    saved: Mapping[str, Any], own: OptimizerLayout, weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Name the parameters of an earlier version's state, which has them in the weights' order."""
    options = {n: place for place, names in enumerate(own.groups) for n in names}
    ordered = [name for name in weights if name in options]
    groups: dict[int, list[str]] = {}
    for name in ordered:
        groups.setdefault(options[name], []).append(name)
    named, sizes = list(groups.values()), [len(g["params"]) for g in saved["param_groups"]]
    if len(ordered) < len(options) or [len(names) for names in named] != sizes:
        raise ValueError(
            f"its optimizer steps {sum(sizes)} parameter(s) in {len(sizes)} group(s), without "
            f"names, as earlier versions wrote it; here {len(options)} in {len(own.groups)} train"
        )
    layout = OptimizerLayout(None, {}, named, (), {n: list(weights[n].shape) for n in ordered})
    state = by_name(saved, layout)
    for name, values in state["state"].items():
        for value in values.values() if isinstance(values, Mapping) else ():
            same_rank = isinstance(value, Tensor) and value.ndim == weights[name].ndim > 0
            if same_rank and value.shape != weights[name].shape:
                raise ValueError(
                    f"its optimizer has no names, and a state of shape {tuple(value.shape)} where "
                    f"{name} has {tuple(weights[name].shape)}"
                )
    return state


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)


def _plain(value: Any) -> Any:
    """Tuples as lists, tensors of one number as the number."""
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
