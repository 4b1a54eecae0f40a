"""Several data sets, each with labels of its own, as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mmengine.dataset
import numpy as np

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.tasks import Task


@DATASETS.register_module()
class ConcatDataset(mmengine.dataset.ConcatDataset):
    """mmengine's ``ConcatDataset`` whose members may label different tasks.

    A label that a member does not have counts as missing. The metainfo of a task is that of the
    members that label it, put together: mmengine asks every member for the same. In a test the
    members' ids must differ, since predictions and panels are named by them.

    Args:
        datasets: the members, or their configs.
        lazy_init: see ``mmengine.dataset.ConcatDataset``.
        ignore_keys: metainfo keys (tasks) for which members may contradict each other; the first
            one's entry is taken.

    Raises:
        InputError: if there is no member, two members contradict each other for one task, or two
            members of a test have a sample of the same id.
    """

    def __init__(
        self,
        datasets: Sequence[Any],
        lazy_init: bool = False,
        ignore_keys: str | Sequence[str] | None = None,
    ) -> None:
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise InputError(f"ConcatDataset: `datasets` must list one at least, got {datasets!r}")
        # What follows stands in place of mmengine's constructor, which compares whole metainfo.
        self.datasets = [DATASETS.build(d) if isinstance(d, Mapping) else d for d in datasets]
        self.ignore_keys = [ignore_keys] if isinstance(ignore_keys, str) else [*(ignore_keys or ())]
        _check_tasks(self.datasets)
        self._metainfo = _merge_metainfo(self.datasets, self.ignore_keys)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the members' lists."""
        if not self._fully_initialized:
            super().full_init()
            _check_ids(self.datasets)


def _innermost(dataset: Any) -> Any:
    """What mmengine's wrappers around one data set wrap."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def members_of(dataset: Any) -> Iterator[MultiTaskDataset]:
    """The data sets of folders that a data set is put together of, within any wrappers."""
    inner = _innermost(dataset)
    if isinstance(inner, MultiTaskDataset):
        yield inner
    for member in getattr(inner, "datasets", ()):
        yield from members_of(member)


def _tasks_of(dataset: Any) -> dict[str, Task]:
    """The tasks that a member labels, by name."""
    inner = _innermost(dataset)
    if isinstance(inner, ConcatDataset):
        return {name: task for member in inner.datasets for name, task in _tasks_of(member).items()}
    return getattr(inner, "tasks", {})


def _name(number: int, dataset: Any) -> str:
    """How messages call a member."""
    inner = _innermost(dataset)
    return f"datasets[{number}] ({getattr(inner, 'data_root', None) or type(inner).__name__})"


def _check_tasks(members: Sequence[Any]) -> None:
    """Raise InputError where two members mean different things by one task."""
    seen: dict[str, tuple[str, str]] = {}
    for number, member in enumerate(members):
        for name, task in _tasks_of(member).items():
            output = task.describe_output()
            former = seen.setdefault(name, (output, _name(number, member)))
            if former[0] != output:
                raise InputError(
                    f"ConcatDataset: task {name!r} is {former[0]} in {former[1]} and {output} in "
                    f"{_name(number, member)}; one task must mean the same in all, so rename one"
                )


def _merge_metainfo(members: Sequence[Any], ignore_keys: Sequence[str]) -> dict[str, Any]:
    """Metainfo by task: field by field that of the members that label it.

    A member that does not label a task may still know its class names, as classes of known data
    sets do; its entry is taken, whole, only where nobody labels the task.
    """
    merged: dict[str, Any] = {}
    source: dict[tuple[str, str], str] = {}
    for name, task, meta in _entries(members, labelled=True):
        fields = merged.setdefault(task, {})
        for field, value in meta.items():
            former = fields.setdefault(field, value)
            first = source.setdefault((task, field), name)
            if task not in ignore_keys and _plain(former) != _plain(value):
                raise InputError(
                    f"ConcatDataset: metainfo of {task!r}: {field} is {former!r} in {first} and "
                    f"{value!r} in {name}; give both the same, or rename one of the tasks"
                )
    for _, task, meta in _entries(members, labelled=False):
        merged.setdefault(task, meta)
    return merged


def _entries(members: Sequence[Any], labelled: bool) -> Iterator[tuple[str, str, Any]]:
    """Every (member, task, metainfo) of the tasks that the member labels, or of the others."""
    for number, member in enumerate(members):
        for task, meta in (getattr(member, "metainfo", None) or {}).items():
            if (task in _tasks_of(member)) == labelled:
                yield _name(number, member), task, meta


def _plain(value: Any) -> Any:
    """Lists where there are tuples or arrays, so that equal values compare as equal."""
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_ids(members: Sequence[Any]) -> None:
    """Raise InputError where files that a test names by ids would overwrite each other."""
    seen: dict[str, str] = {}
    for number, member in enumerate(members):
        inner = list(members_of(member))
        if not inner or not all(dataset.test_mode for dataset in inner):
            continue
        for index in range(len(member)):
            sample_id = member.get_data_info(index)["sample_id"]
            if sample_id in seen:
                raise InputError(
                    f"ConcatDataset: id {sample_id!r} is in {seen[sample_id]} and in "
                    f"{_name(number, member)}; give one of them `id_prefix`, or take the image out "
                    "of one where it is the same"
                )
            seen[sample_id] = _name(number, member)
