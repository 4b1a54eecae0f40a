"""What the top-level ``protocol`` and ``task`` make of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

from mmengine.config import Config

from vmt_mm.config.tree import LOADERS, dicts_in
from vmt_mm.datasets.transforms.geometry import MEAN_COLOR
from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS

#: The steps of a test pipeline that change sizes, by protocol.
_ORDERS = dict(A=["Resize", "LoadLabels"], B=["LoadLabels", "Resize"], C=["Pad", "LoadLabels"])


def apply_protocol(cfg: Config) -> None:
    """Change validation and test to the config's ``protocol``.

    - 'A', as test pipelines are written: labels keep their native size, predictions get it.
    - 'B': labels are resized with the image, by nearest neighbours; predictions have that size.
    - 'C': the image is not resized, but padded to the size that it would be resized to.

    Options of tasks that belong to a protocol (``Task.protocol_options``) are set where the config
    does not set them. If they change a task's primary metric, reference scores do not compare with
    it, and there is no Delta.

    Raises:
        InputError: if there is no such protocol, or a test pipeline is not of protocol A.
    """
    name = cfg.get("protocol", "A")
    if name not in list(_ORDERS):  # of any type, hashable or not
        raise InputError(f"protocol must be one of {list(_ORDERS)}, got {name!r}")
    if name == "A":
        return
    for loader in ("val_dataloader", "test_dataloader"):
        for entry in dicts_in(cfg.get(loader)):
            if "pipeline" in entry:
                entry["pipeline"] = _changed(entry["pipeline"], name, loader)
    entries, other_metric = list(dicts_in(dict(cfg.items()))), False
    for key, task in (item for entry in entries for item in _tasks_of(entry)):
        options = getattr(TASKS.get(str(task.get("type"))), "protocol_options", {}).get(name, {})
        is_run = cfg.get("task") in (None, key)
        other_metric |= is_run and "primary_metric" in options and "primary_metric" not in task
        for option, value in options.items():
            task.setdefault(option, value)
    for entry in entries if other_metric else ():
        if "reference" in entry:
            entry["reference"] = None
    if other_metric and "reference" in cfg:
        cfg.reference = None


def _tasks_of(entry: Mapping[str, Any]) -> list[tuple[str, Any]]:
    tasks = entry.get("tasks")
    return list(tasks.items()) if isinstance(tasks, Mapping) else []


def _changed(pipeline: Sequence[Mapping], name: str, loader: str) -> list[Mapping]:
    """Return the pipeline of protocol A as one of B or C; one that is so already stays."""
    steps, kinds = list(pipeline), [step.get("type") for step in pipeline]
    order = [kind for kind in kinds if kind in ("Resize", "Pad", "LoadLabels")]
    if order not in (_ORDERS["A"], _ORDERS[name]):
        raise InputError(
            f"protocol {name!r} changes a test pipeline with Resize and then LoadLabels; that of "
            f"{loader} has {kinds}"
        )
    if name == "B":
        position = kinds.index("Resize")
        steps[position] = dict(steps[position], nearest_labels=True)
        if order == _ORDERS["A"]:
            steps.insert(position, steps.pop(kinds.index("LoadLabels")))
    elif order == _ORDERS["A"]:
        position = kinds.index("Resize")
        size = {"size": tuple(steps[position]["scale"])} if "scale" in steps[position] else {}
        steps[position] = dict(type="Pad", **size, pad_val=dict(img=MEAN_COLOR))
    return steps


def reduce_to_task(cfg: Config) -> None:
    """Reduce model, data and metrics to the one task that ``task`` names.

    Of several datasets, those that do not label the task are left out, with their weights. A
    ``save_best`` of another task becomes this task's primary metric.

    Raises:
        InputError: if there is no such task, or no dataset labels it.
    """
    task, tasks = cfg.get("task"), cfg.get("tasks")
    if task is None:
        return
    if not isinstance(tasks, Mapping) or task not in tasks:
        known = list(tasks) if isinstance(tasks, Mapping) else "no top-level `tasks`"
        raise InputError(f"task={task!r}: no such task; the config has {known}")
    for loader in LOADERS:
        _keep_datasets(cfg.get(loader) or {}, task, loader)
    for entry in (cfg, *dicts_in(dict(cfg.items()))):
        for key in ("tasks", "task_heads", "reference"):
            own = entry.get(key)
            if isinstance(own, (Mapping, list, tuple)) and task in own:
                entry[key] = {task: own[task]} if isinstance(own, Mapping) else [task]
            elif own and key != "tasks":
                entry[key] = None
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    best = hook.get("save_best") or ()
    named = {key.split("/")[0] for key in ([best] if isinstance(best, str) else best) if "/" in key}
    if named - {task}:
        kind = TASKS.get(str(tasks[task].get("type")))
        metric = tasks[task].get("primary_metric", getattr(kind, "primary_metric", None))
        hook.update(save_best=f"{task}/{metric}" if metric else None, rule=None)


def _keep_datasets(loader: Any, task: str, name: str) -> None:
    """Keep those of several datasets that label the task, with their weights."""
    sampler = loader.get("sampler") or {}
    for index, entry in enumerate(list(dicts_in(loader.get("dataset")))):
        if not isinstance(entry.get("datasets"), list):
            continue
        listed = [[d["tasks"] for d in dicts_in(m) if "tasks" in d] for m in entry["datasets"]]
        labels = [not own or any(task in tasks for tasks in own) for own in listed]
        if not any(labels):
            raise InputError(f"task={task!r}: no dataset of {name} labels it")
        entry["datasets"] = list(compress(entry["datasets"], labels))
        balance = sampler.get("balance")
        if index == 0 and isinstance(balance, list) and len(balance) == len(labels):
            sampler["balance"] = list(compress(balance, labels))
