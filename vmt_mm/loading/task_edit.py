"""Take tasks out of a config, and give tasks other names in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

from vmt_mm.config.tree import LOADERS, dicts_in
from vmt_mm.errors import InputError

#: Entries of a config's dictionaries that say something of every task, by its name.
_BY_TASK = ("tasks", "task_heads", "reference", "metainfo", "new_tasks")


@dataclass(frozen=True)
class TaskEdit:
    """What is to become of a model's tasks.

    Attributes:
        tasks: names of all tasks, in the model's order.
        remove: names of those to remove.
        rename: name -> new name.

    Raises:
        InputError: if a task is unknown, no task would be left, or a new name is none or taken.
    """

    tasks: Sequence[str]
    remove: Collection[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.remove and not self.rename:
            raise InputError("nothing to do: give --remove NAME or --rename OLD=NEW")
        if unknown := [name for name in (*self.remove, *self.rename) if name not in self.tasks]:
            raise InputError(f"unknown task(s) {unknown}; the model has {list(self.tasks)}")
        if both := sorted(set(self.remove) & set(self.rename)):
            raise InputError(f"task(s) {both}: either remove or rename")
        if set(self.remove) == set(self.tasks):
            raise InputError(f"a model needs one task at least; it has {list(self.tasks)}")
        for new in self.rename.values():
            if not new.isidentifier():
                raise InputError(f"task name {new!r} must be a valid identifier")
        names = list(self.renamed.values())
        if taken := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two tasks would have the name {taken[0]!r}; the model has {names}")

    @property
    def renamed(self) -> dict[str, str]:
        """Former name -> name of every task that stays."""
        return {t: self.rename.get(t, t) for t in self.tasks if t not in self.remove}

    def of_mapping(self, by_task: Mapping[str, Any]) -> dict[str, Any]:
        """A mapping by tasks, and maybe others, without the removed ones and with the new names."""
        kept = {k: v for k, v in by_task.items() if k not in self.remove}
        return {self.rename.get(key, key): value for key, value in kept.items()}

    def of_list(self, names: Sequence[str]) -> list[str]:
        """A list of names, likewise."""
        return list(self.of_mapping(dict.fromkeys(names)))

    def of_metrics(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics ``<task>/<name>``, likewise; the mean over tasks goes where a task goes."""
        edited = {self.of_metric(key): value for key, value in metrics.items()}
        return {key: value for key, value in edited.items() if key is not None}

    def of_metric(self, metric: str) -> str | None:
        """The new name of a metric; None where it is gone."""
        task, slash, name = metric.partition("/")
        if task in self.remove or (metric == "delta" and self.remove):
            return None
        return f"{self.rename.get(task, task)}{slash}{name}" if slash else metric


def edit_config(config: Mapping[str, Any], edit: TaskEdit) -> dict[str, Any]:
    """A config in which the tasks are edited wherever they are named.

    A data set that is left without a task, one of several, goes. ``save_best`` keeps what is left
    of its metrics.

    Args:
        config: the whole config, in plain containers.
        edit: what is to become of the tasks.
    """
    config = _edited(config, edit)
    hook = (config.get("default_hooks") or {}).get("checkpoint") or {}
    if best := hook.get("save_best"):
        kept = [edit.of_metric(key) for key in ([best] if isinstance(best, str) else best)]
        kept = [key for key in kept if key is not None]
        hook["save_best"] = (kept[0] if isinstance(best, str) else kept) if kept else None
        hook["rule"] = None  # that of the metrics that are left
    if "task" in config:  # the one that a config was reduced to
        config["task"] = edit.rename.get(config["task"], config["task"])
    model = config.get("model") or {}
    if not set(model.get("new_tasks") or ()) < set(model.get("tasks") or ()):
        model["new_tasks"] = None
    for name in LOADERS:
        _drop_empty_datasets(config.get(name) or {})
    return config


def _edited(node: Any, edit: TaskEdit) -> Any:
    """A copy of ``node`` with the tasks edited where a key says that names of tasks stand there."""
    if isinstance(node, (list, tuple)):
        children = [_edited(child, edit) for child in node if not _is_of_removed(child, edit)]
        return type(node)(children)
    if not isinstance(node, Mapping):
        return node
    copy = {key: _edited(value, edit) for key, value in node.items()}
    for key in _BY_TASK:
        value = copy.get(key)
        if isinstance(value, Mapping):
            copy[key] = edit.of_mapping(value) or (None if key == "reference" else {})
        elif isinstance(value, (list, tuple)):
            copy[key] = edit.of_list(value)
    if "type" in copy and isinstance(copy.get("task"), str):  # a metric of one task
        copy["task"] = edit.rename.get(copy["task"], copy["task"])
    return copy


def _is_of_removed(entry: Any, edit: TaskEdit) -> bool:
    """Whether an entry of a list is a metric of a task that is removed."""
    return isinstance(entry, Mapping) and "type" in entry and entry.get("task") in edit.remove


def _drop_empty_datasets(loader: dict[str, Any]) -> None:
    """Leave out those of several data sets that label no task any more, with their weights."""
    sampler = loader.get("sampler") or {}
    for index, entry in enumerate(list(dicts_in(loader.get("dataset")))):
        members = entry.get("datasets")
        if not isinstance(members, list):
            continue
        kept = [any(d.get("tasks") for d in dicts_in(member)) for member in members]
        entry["datasets"] = list(compress(members, kept))
        balance = sampler.get("balance")
        if index == 0 and isinstance(balance, list) and len(balance) == len(kept):
            sampler["balance"] = list(compress(balance, kept))
