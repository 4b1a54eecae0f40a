"""Add tasks to a trained model: train their parameters only."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn

from vmt_mm.checkpoints.keys import task_of_keys
from vmt_mm.errors import InputError


def check_new_tasks(new_tasks: Sequence[str] | None, tasks: Collection[str]) -> tuple[str, ...]:
    """Return the new tasks' names. Raises InputError unless they are some, but not all, tasks."""
    if new_tasks is None:
        return ()
    listed = isinstance(new_tasks, (list, tuple)) and new_tasks
    if not listed or len(set(new_tasks)) != len(new_tasks) or not set(new_tasks) < set(tasks):
        raise InputError(
            f"`new_tasks` must list some, but not all, of the model's tasks {list(tasks)}, each "
            f"once, got {new_tasks!r}"
        )
    return tuple(new_tasks)


def freeze_existing_tasks(model: Any, new_tasks: Collection[str]) -> frozenset[str]:
    """Freeze the parameters that do not belong to a new task; return those that were trainable."""
    owner = task_of_keys((name for name, _ in model.named_parameters()), model.tasks)
    trained = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and owner.get(name) not in new_tasks:
            parameter.requires_grad_(False)
            trained.add(name)
    return frozenset(trained)


def absent_tasks(model: nn.Module, state: Collection[str]) -> dict[str, set[str]]:
    """Map each new task without any key in ``state`` to the keys of this task in the model."""
    owner = task_of_keys(model.state_dict(), getattr(model, "tasks", ()))
    new_tasks = getattr(model, "new_tasks", ())
    keys = {name: {key for key, task in owner.items() if task == name} for name in new_tasks}
    return {name: own for name, own in keys.items() if own.isdisjoint(state)}


def start_tasks(model: Any, tasks: Collection[str]) -> None:
    """Initialise the PEFT method and the heads of tasks, after the frozen weights are loaded."""
    model.backbone.peft.reset_from_pretrained(model.backbone)
    for head in (model.heads[name] for name in tasks):
        if hasattr(head, "init_weights"):
            head._dump_init_info = lambda: None  # else mmengine logs three lines per parameter
            head.init_weights()
            del head._dump_init_info
