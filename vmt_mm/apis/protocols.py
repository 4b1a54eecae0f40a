"""Evaluation protocols: at which size predictions and labels are compared.

The families of papers differ in it, and their numbers are comparable only within one; see
``docs/evaluation.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.config import Config

from vmt_mm.apis.config_tree import dicts_in
from vmt_mm.datasets.transforms.geometry import MEAN_COLOR
from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS

#: What each makes of the steps that change sizes.
_ORDERS = dict(A=["Resize", "LoadLabels"], B=["LoadLabels", "Resize"], C=["Pad", "LoadLabels"])


def apply_protocol(cfg: Config, training: bool) -> None:
    """Change validation and test to the config's top-level ``protocol``.

    - 'A', the default: the image is resized, labels keep their native size, predictions get it.
      Nothing changes, since this is how the test pipelines are written.
    - 'B': labels are resized with the image, by nearest neighbours; predictions have that size.
    - 'C': the image keeps its native pixels and is padded to the size that it would be resized to.

    Options of tasks that belong to a protocol (``Task.protocol_options``) are set where the config
    does not set them. Where that changes what stands for a task, reference scores are of another
    kind, and there is no Delta.

    Raises:
        InputError: if there is no such protocol, a test pipeline is not of protocol A, or a
            training is to save the best Delta where there is none.
    """
    name = cfg.get("protocol", "A")
    if name not in list(_ORDERS):  # of any type, hashable or not
        raise InputError(f"protocol must be one of {list(_ORDERS)}, got {name!r}")
    if name == "A":
        return
    for loader in ("val_dataloader", "test_dataloader"):
        for entry in dicts_in(cfg.get(loader)):
            if "pipeline" in entry:
                entry["pipeline"] = _change(entry["pipeline"], name, loader)
    if not _set_task_options(cfg, name):
        return
    for evaluator in ("val_evaluator", "test_evaluator"):
        for entry in dicts_in(cfg.get(evaluator)):
            if "reference" in entry:
                entry["reference"] = None
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    if training and hook.get("save_best") == "delta":
        raise InputError(
            f"protocol {name!r} has no reference scores and so no delta; set "
            "default_hooks.checkpoint.save_best to a task's metric"
        )


def _change(pipeline: Sequence[Mapping], name: str, loader: str) -> list[Mapping]:
    """The pipeline of protocol A as one of B or C; one that is so already stays."""
    steps, kinds = list(pipeline), [step.get("type") for step in pipeline]
    order = [kind for kind in kinds if kind in ("Resize", "Pad", "LoadLabels")]
    if order == _ORDERS[name]:  # a config that was written after this was done to it
        return steps
    position = kinds.index("Resize") if order == _ORDERS["A"] else -1
    if position < 0 or steps[position].get("scale") is None:
        raise InputError(
            f"protocol {name!r} changes a test pipeline with Resize(scale=...) and then LoadLabels;"
            f" that of {loader} has {kinds}"
        )
    if name == "B":
        steps[position] = dict(steps[position], nearest_labels=True)
        steps.insert(position, steps.pop(kinds.index("LoadLabels")))
    else:
        color = dict(img=MEAN_COLOR)
        steps[position] = dict(type="Pad", size=tuple(steps[position]["scale"]), pad_val=color)
    return steps


def _set_task_options(cfg: Config, name: str) -> bool:
    """Set the tasks' options of a protocol; tell whether another metric stands for a task."""
    changed = False
    for entry in dicts_in(dict(cfg.items())):
        tasks = entry.get("tasks")
        for task in tasks.values() if isinstance(tasks, Mapping) else ():
            kind = TASKS.get(str(task.get("type")))
            for option, value in (kind.protocol_options if kind else {}).get(name, {}).items():
                changed = changed or (option == "primary_metric" and option not in task)
                task.setdefault(option, value)
    return changed
