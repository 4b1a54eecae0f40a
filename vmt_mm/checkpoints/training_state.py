"""State of optimizer and schedules, keyed by parameter names instead of positions."""

from collections.abc import Collection, Mapping, Sequence
from inspect import signature
from typing import Any

from mmengine.optim import OptimWrapper, _ParamScheduler
from torch import nn

from vmt_mm.checkpoints.keys import differences, some

#: Options of the implementation, which do not change the step; newer PyTorch adds some.
_HOW = {"fused", "foreach", "capturable", "differentiable", "decoupled_weight_decay"}
#: Arguments of a schedule that change during training, and those that depend on its length.
_CHANGING = {"last_step", "verbose"}
_OF_LENGTH = {"end", "total_iters", "total_steps", "T_max"}
#: Entries with one value per parameter group.
_BY_GROUP = {"base_values", "_last_value", "min_values"}


def named_state(wrapper: OptimWrapper, model: nn.Module) -> dict[str, Any]:
    """Return a wrapper's state dict, keyed by parameter names, with its settings for checks."""
    optimizer, state = wrapper.optimizer, wrapper.state_dict()
    parameters = dict(model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    flat = [name for group in groups for name in group]
    pairs = zip(state["param_groups"], groups, strict=True)
    return {
        **state,
        "kind": type(optimizer).__name__,
        "wrapper": dict(
            type=type(wrapper).__name__,
            accumulative_counts=wrapper._accumulative_counts,
            clip_grad=dict(wrapper.clip_grad_kwargs or {}),
        ),
        "shapes": {name: list(parameters[name].shape) for name in flat},
        "state": {flat[k] if isinstance(k, int) else k: v for k, v in state["state"].items()},
        "param_groups": [{**group, "params": own} for group, own in pairs],
    }


def by_position(
    saved: Mapping[str, Any], own: Mapping[str, Any]
) -> tuple[dict[str, Any], list[int]]:
    """Undo :func:`named_state` for the optimizer whose named state is ``own``.

    Also returns each group's saved index. Raises ValueError if the settings differ.
    """
    if "kind" not in saved:
        raise ValueError("its optimizer state has no parameter names")
    for one, other, place in ((saved, own, "checkpoint"), (own, saved, "config")):
        if only := sorted(one["shapes"].keys() - other["shapes"].keys()):
            raise ValueError(f"{len(only)} parameter(s) train only in the {place}: {some(only)}")
    if found := differences(_facts(saved), _facts(own)):
        each = {text.split(" of ")[0]: text for text in reversed(found)}  # option -> first one
        raise ValueError("; ".join(reversed(each.values())))
    theirs, ours = saved["param_groups"], own["param_groups"]
    members = [set(group["params"]) for group in theirs]
    order = [members.index(set(group["params"])) for group in ours]
    positions = {name: i for i, name in enumerate(n for g in ours for n in g["params"])}
    groups = []
    for index, group in zip(order, ours, strict=True):
        how = {key: group[key] for key in _HOW & group.keys()}
        numbers = [positions[name] for name in group["params"]]
        groups.append({**group, **theirs[index], **how, "params": numbers})
    rest = {key: v for key, v in saved.items() if key not in ("kind", "wrapper", "shapes")}
    state = {positions.get(name, name): value for name, value in saved["state"].items()}
    return {**rest, "state": state, "param_groups": groups}, order


def _facts(state: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that must not change in a resumed training; initial values of scheduled ones."""
    facts = {"the optimizer": state["kind"], "number of groups": len(state["param_groups"])}
    facts |= {f"optim_wrapper.{key}": value for key, value in state["wrapper"].items()}
    facts |= {f"shape of {name}": shape for name, shape in state["shapes"].items()}
    for group in state["param_groups"]:
        left_out = {*_HOW, "params", "param_names"}
        if "initial_momentum" in group:
            left_out.add("betas")  # mmengine's momentum schedules change them
        options = {k: v for k, v in group.items() if k not in left_out and "initial_" not in k}
        options |= {k.removeprefix("initial_"): v for k, v in group.items() if "initial_" in k}
        facts |= {f"{key} of {n}": v for key, v in options.items() for n in group["params"]}
    return facts


def save_schedules(schedulers: Sequence[_ParamScheduler]) -> list[dict[str, Any]]:
    """Return the states of schedulers, with their class names and without functions."""
    return [
        {**{k: v for k, v in s.state_dict().items() if not callable(v)}, "kind": type(s).__name__}
        for s in schedulers
    ]


def match_schedules(
    saved: Sequence[Mapping[str, Any]],
    own: Sequence[_ParamScheduler],
    order: Sequence[int],
    lengths: Collection[int],
) -> list[dict[str, Any]]:
    """Undo :func:`save_schedules` for the schedules ``own``; raise ValueError if they differ.

    ``order`` comes from :func:`by_position`; ``lengths`` are the run's epochs and iterations. A
    schedule that ends with the run keeps its saved length if that changed.
    """
    kinds = [s["kind"] for s in saved], [type(s).__name__ for s in own]
    if kinds[0] != kinds[1]:
        raise ValueError(f"schedules: {kinds[0]} in the checkpoint, {kinds[1]} in the config")
    states = []
    for state, scheduler in zip(saved, own, strict=True):
        names = {n for k in type(scheduler).__mro__[:-1] for n in signature(k.__init__).parameters}
        if scheduler.end in lengths and state.get("end") != scheduler.end:
            names -= _OF_LENGTH
        constants = {k: v for k, v in scheduler.state_dict().items() if k in names - _CHANGING}
        if found := differences(state, constants):
            raise ValueError(f"schedule {state['kind']}: {'; '.join(found)}")
        by_group = {  # mmengine appends the value of `base_lr` to those of the groups
            key: [state[key][i] for i in order] + state[key][len(order) :]
            for key in _BY_GROUP & state.keys()
        }
        states.append({k: v for k, v in {**state, **by_group}.items() if k != "kind"})
    return states
