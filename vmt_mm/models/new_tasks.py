"""Tasks that join a trained model: what they bring trains, everything trained before stays."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from vmt_mm.checkpoints.keys import task_of_keys
from vmt_mm.errors import InputError


def check_new_tasks(new_tasks: Sequence[str] | None, tasks: Collection[str]) -> tuple[str, ...]:
    """Names of the new tasks; empty where there are none.

    Raises:
        InputError: if one is unknown or named twice, or no other task is left.
    """
    if new_tasks is None:
        return ()
    several = isinstance(new_tasks, (list, tuple)) and new_tasks
    if not several or len(set(new_tasks)) != len(new_tasks) or not set(new_tasks) < set(tasks):
        raise InputError(
            f"`new_tasks` must be a list of some of the model's tasks, not of all, each once, got "
            f"{new_tasks!r}; the model has {list(tasks)}"
        )
    return tuple(new_tasks)


def freeze_existing_tasks(model: nn.Module, new_tasks: Collection[str]) -> frozenset[str]:
    """Freeze what does not belong to the new tasks alone; return the names of what trained before.

    Args:
        model: a multi-task model whose encoder and heads are built.
        new_tasks: the tasks that train.
    """
    parameters = dict(model.named_parameters())
    owner = task_of_keys(parameters, model.tasks)
    former = {
        name
        for name, parameter in parameters.items()
        if parameter.requires_grad and owner.get(name) not in new_tasks
    }
    for name in former:
        parameters[name].requires_grad_(False)
    return frozenset(former)


def absent_tasks(model: nn.Module, state: Collection[str]) -> tuple[str, ...]:
    """The new tasks that a state dict has nothing of.

    Args:
        model: the model.
        state: keys of the state dict.
    """
    owner = task_of_keys(model.state_dict(), getattr(model, "tasks", ()))
    there = {owner.get(key) for key in state}
    return tuple(name for name in getattr(model, "new_tasks", ()) if name not in there)


def keys_of_tasks(model: nn.Module, tasks: Collection[str]) -> set[str]:
    """State-dict keys that belong to some tasks alone."""
    owner = task_of_keys(model.state_dict(), getattr(model, "tasks", ()))
    return {key for key, task in owner.items() if task in tasks}


def start_tasks(model: nn.Module, tasks: Collection[str]) -> None:
    """Set the initial values of tasks, as a new training does; the frozen weights must be in.

    What the PEFT method keeps for all tasks and for the others starts anew, too.
    """
    model.backbone.peft.reset_from_pretrained(model.backbone)
    for name in tasks:
        head = model.heads[name]
        if hasattr(head, "init_weights"):
            head._dump_init_info = lambda: None  # else mmengine logs three lines a parameter
            head.init_weights()
            del head._dump_init_info
