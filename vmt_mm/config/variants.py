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

    A protocol's options of tasks (``Task.protocol_options``) are set where the config does not set
    them. Where they change a primary metric, reference scores do not compare, so there is no Delta.
    """
    name, other_metric = cfg.get("protocol", "A"), False
    if name not in list(_ORDERS):  # of any type, hashable or not
        raise InputError(f"protocol must be one of {list(_ORDERS)}, got {name!r}")
    entries = [cfg, *dicts_in(dict(cfg.items()))] if name != "A" else []
    for loader in ("val_dataloader", "test_dataloader"):
        for entry in (e for e in dicts_in(cfg.get(loader)) if name != "A" and "pipeline" in e):
            entry["pipeline"] = _changed(entry["pipeline"], name, loader)
    for tasks in (e["tasks"] for e in entries if isinstance(e.get("tasks"), Mapping)):
        for key, task in tasks.items():
            options = getattr(TASKS.get(str(task.get("type"))), "protocol_options", {})
            for option, value in options.get(name, {}).items():
                if option == "primary_metric" and option not in task:
                    other_metric |= cfg.get("task") in (None, key)
                task.setdefault(option, value)
    for entry in entries:
        if other_metric and "reference" in entry:
            entry["reference"] = None


def _changed(pipeline: Sequence[Any], name: str, loader: str) -> list[dict[str, Any]]:
    """Return the pipeline of protocol A as one of B or C; one that is so already stays."""
    steps, kinds = [dict(step) for step in pipeline], [step.get("type") for step in pipeline]
    order = [kind for kind in kinds if kind in ("Resize", "Pad", "LoadLabels")]
    if order not in (_ORDERS["A"], _ORDERS[name]):
        raise InputError(
            f"protocol {name!r} changes a test pipeline with Resize and then LoadLabels; that of "
            f"{loader} has {kinds}"
        )
    if name == "B":
        steps[kinds.index("Resize")]["nearest_labels"] = True
        if order == _ORDERS["A"]:
            steps.insert(kinds.index("Resize"), steps.pop(kinds.index("LoadLabels")))
    elif order == _ORDERS["A"]:
        resize = steps[kinds.index("Resize")]
        size = {"size": resize["scale"]} if "scale" in resize else {}
        steps[kinds.index("Resize")] = dict(size, type="Pad", pad_val=dict(img=MEAN_COLOR))
    return steps


def reduce_to_task(cfg: Config) -> None:
    """Reduce model, data and metrics to the one task that ``task`` names.

    Of several datasets, those that do not label the task are left out, with their weights. A
    ``save_best`` of another task becomes this task's primary metric.
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
    for entry in (
        e for e in dicts_in(loader.get("dataset")) if isinstance(e.get("datasets"), list)
    ):
        listed = [[d["tasks"] for d in dicts_in(m) if "tasks" in d] for m in entry["datasets"]]
        labels = [not own or any(task in tasks for tasks in own) for own in listed]
        if not any(labels):
            raise InputError(f"task={task!r}: no dataset of {name} labels it")
        entry["datasets"] = list(compress(entry["datasets"], labels))
        balance = sampler.get("balance")
        if isinstance(balance, list) and entry is loader["dataset"]:
            sampler["balance"] = list(compress(balance, labels))
