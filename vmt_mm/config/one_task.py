"""Reduce a config to one of its tasks: what the top-level ``task`` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress

from mmengine.config import Config

from vmt_mm.config.tree import LOADERS, dicts_in
from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS


def reduce_variables(cfg: Config) -> None:
    """Reduce ``tasks`` and ``reference`` to the one task that ``task`` names."""
    task, tasks, reference = cfg.get("task"), cfg.get("tasks"), cfg.get("reference")
    if task is None:
        return
    if not isinstance(tasks, Mapping) or task not in tasks:
        known = list(tasks) if isinstance(tasks, Mapping) else "no top-level `tasks`"
        raise InputError(f"task={task!r}: no such task; the config has {known}")
    cfg.tasks = {task: tasks[task]}
    if reference:
        cfg.reference = {task: reference[task]} if task in reference else None


def reduce_places(cfg: Config) -> None:
    """Take other tasks than ``task`` from where they stand by name alone."""
    task, model = cfg.get("task"), cfg.get("model")
    if task is None or model is None:
        return
    if list(model.get("tasks", ())) != [task]:
        raise InputError(
            f"task={task!r} does not reach model.tasks, which has a value of its own; set what a "
            "task needs in the top-level `tasks`"
        )
    for loader in LOADERS:
        _reduce_datasets(cfg, loader, task)
    if heads := model.get("task_heads"):
        model.task_heads = {name: head for name, head in heads.items() if name == task}
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    best = hook.get("save_best") or ()
    named = {key.split("/")[0] for key in ([best] if isinstance(best, str) else best) if "/" in key}
    if named - {task}:
        metric = _primary_metric(model.tasks[task])
        hook.update(save_best=f"{task}/{metric}" if metric else None, rule=None)


def _reduce_datasets(cfg: Config, loader_name: str, task: str) -> None:
    """Of several data sets, keep those that label ``task``, with their weights, for it alone."""
    loader = cfg.get(loader_name) or {}
    entries = list(dicts_in(loader.get("dataset")))
    sampler = loader.get("sampler") or {}
    for entry in entries:
        if isinstance(entry.get("datasets"), list):
            labels = [any(task in d.get("tasks", ()) for d in dicts_in(m)) for m in entry.datasets]
            if not any(labels):
                raise InputError(f"task={task!r}: no data set of {loader_name} labels it")
            entry.datasets = list(compress(entry.datasets, labels))
            balance = sampler.get("balance")
            if entry is entries[0] and isinstance(balance, list) and len(balance) == len(labels):
                sampler.balance = list(compress(balance, labels))
    for entry in entries:
        if "data_root" in entry and task in entry.get("tasks", ()):
            entry.tasks = {task: entry.tasks[task]}


def _primary_metric(entry: Mapping) -> str | None:
    """The metric that stands for a task, if its class is known: the entry's own first."""
    kind = TASKS.get(str(entry.get("type")))
    return entry.get("primary_metric", getattr(kind, "primary_metric", None))
