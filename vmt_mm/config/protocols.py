"""Evaluation protocols: at which size predictions and labels are compared.

The families of papers differ in it, and their numbers are comparable only within one; see
``docs/evaluation.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config, ConfigDict

from vmt_mm.config.tree import dicts_in
from vmt_mm.datasets.transforms.geometry import MEAN_COLOR
from vmt_mm.errors import InputError
from vmt_mm.registry import TASKS
from vmt_mm.tasks import Task

#: What each makes of the steps that change sizes.
_ORDERS = dict(A=["Resize", "LoadLabels"], B=["LoadLabels", "Resize"], C=["Pad", "LoadLabels"])


def apply_protocol(cfg: Config) -> None:
    """Change validation and test to the config's top-level ``protocol``.

    - 'A', the default: the image is resized, labels keep their native size, predictions get it.
      Nothing changes, since this is how the test pipelines are written.
    - 'B': labels are resized with the image, by nearest neighbours; predictions have that size.
    - 'C': the image keeps its native pixels and is padded to the size that it would be resized to.

    Options of tasks that belong to a protocol (``Task.protocol_options``) are set where the config
    does not set them. Where that changes what stands for a task, reference scores are of another
    kind, and there is no Delta.

    Raises:
        InputError: if there is no such protocol, a test pipeline is not of protocol A, or 'A' is
            given to a config that was written down after another one had changed it.
    """
    name = cfg.get("protocol", "A")
    if name not in list(_ORDERS):  # of any type, hashable or not
        raise InputError(f"protocol must be one of {list(_ORDERS)}, got {name!r}")
    if name == "A":
        if "protocol" in cfg:
            _refuse_others(cfg)
        return
    for loader, entry in _test_data(cfg):
        entry["pipeline"] = _change(entry["pipeline"], name, loader)
    if not _set_task_options(cfg, name):
        return
    for evaluator in ("val_evaluator", "test_evaluator"):
        for entry in dicts_in(cfg.get(evaluator)):
            if "reference" in entry:
                entry["reference"] = None


def _test_data(cfg: Config) -> Iterator[tuple[str, ConfigDict]]:
    """Every entry with a pipeline that validates or tests, and its loader's name."""
    for loader in ("val_dataloader", "test_dataloader"):
        for entry in dicts_in(cfg.get(loader)):
            if "pipeline" in entry:
                yield loader, entry


def _order(pipeline: Sequence[Mapping]) -> list[str]:
    """The steps that decide at which size predictions and labels are compared."""
    kinds = [step.get("type") for step in pipeline]
    return [kind for kind in kinds if kind in ("Resize", "Pad", "LoadLabels")]


def _refuse_others(cfg: Config) -> None:
    """Refuse a config that protocol B or C has changed already: A would change nothing back."""
    rule = (
        "protocol 'A' is asked for, but {} as protocol {!r} makes it; take the config that this "
        "one was made from"
    )
    for loader, entry in _test_data(cfg):
        for name, order in _ORDERS.items():
            if name != "A" and _order(entry["pipeline"]) == order:
                raise InputError(rule.format(f"the pipeline of {loader} has {order}", name))
    for task, entry, kind in _task_entries(cfg):
        for name, options in kind.protocol_options.items():
            if options and all(_same(entry.get(key), options[key]) for key in options):
                raise InputError(rule.format(f"task {task!r} has {list(options)}", name))


def _same(one: object, other: object) -> bool:
    """Whether two options are equal; a file may have made a list of a tuple."""
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return one == other


def _change(pipeline: Sequence[Mapping], name: str, loader: str) -> list[Mapping]:
    """The pipeline of protocol A as one of B or C; one that is so already stays."""
    steps, kinds = list(pipeline), [step.get("type") for step in pipeline]
    order = _order(steps)
    if order == _ORDERS[name]:  # the user's own, or written down after this was done to it
        if name == "B":
            position = kinds.index("Resize")
            steps[position] = dict(steps[position], nearest_labels=True)
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
    for _, entry, kind in _task_entries(cfg):
        for option, value in kind.protocol_options.get(name, {}).items():
            changed = changed or (option == "primary_metric" and option not in entry)
            entry.setdefault(option, value)
    return changed


def _task_entries(cfg: Config) -> Iterator[tuple[str, ConfigDict, type[Task]]]:
    """Name, entry and class of every task, wherever it stands."""
    for parent in dicts_in(dict(cfg.items())):
        tasks = parent.get("tasks")
        for name, entry in tasks.items() if isinstance(tasks, Mapping) else ():
            kind = TASKS.get(str(entry.get("type")))
            if kind is not None:
                yield name, entry, kind
