"""Several datasets, each with its own labels, as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mmengine.dataset
import numpy as np

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.registry import DATASETS


@DATASETS.register_module()
class ConcatDataset(mmengine.dataset.ConcatDataset):
    """mmengine's ``ConcatDataset`` whose members may label different tasks.

    A label that a member does not have counts as missing. The metainfo of a task is that of the
    members that label it; InputError if they contradict each other. In a test the members' ids
    must differ, as they name predictions.

    Args:
        datasets: the members, or their configs; ``lazy_init`` is mmengine's.
    """

    unread = dict(ignore_keys="give the members' `metainfo` the same values")

    def __init__(self, datasets: Sequence[Any], lazy_init: bool = False, **kwargs: Any) -> None:
        refuse_unread(ConcatDataset, kwargs)
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise InputError(f"ConcatDataset: `datasets` must list one at least, got {datasets!r}")
        # In place of mmengine's constructor, which asks for the same metainfo in all members.
        self.datasets = [DATASETS.build(d) if isinstance(d, dict) else d for d in datasets]
        self._metainfo = _merge_metainfo(self.datasets)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Read the members' lists."""
        if not self._fully_initialized:
            super().full_init()
            _check_ids(self.datasets)


def members_of(dataset: Any) -> Iterator[MultiTaskDataset]:
    """The :class:`MultiTaskDataset` s that a dataset consists of, inside any wrappers."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    if isinstance(dataset, MultiTaskDataset):
        yield dataset
    for member in getattr(dataset, "datasets", ()):
        yield from members_of(member)


def _numbered(datasets: Sequence[Any]) -> Iterator[tuple[str, MultiTaskDataset]]:
    """Every innermost member and how messages call it."""
    for number, dataset in enumerate(datasets):
        for member in members_of(dataset):
            yield f"datasets[{number}] ({member.data_root})", member


def _merge_metainfo(datasets: Sequence[Any]) -> dict[str, Any]:
    """Metainfo by task: that of the members that label it, which must agree, else the first one."""
    merged: dict[str, dict[str, Any]] = {}
    others: dict[str, Any] = {}
    seen: dict[tuple[str, str], tuple[Any, str]] = {}
    for name, member in _numbered(datasets):
        metainfo = member.metainfo
        for task in metainfo.keys() - member.tasks.keys():
            others.setdefault(task, metainfo[task])
        for task, means in member.tasks.items():
            fields = dict(metainfo.get(task, {}))
            for field, value in {"type": means.describe_output(), **fields}.items():
                first, source = seen.setdefault((task, field), (value, name))
                if not np.array_equal(first, value):
                    raise InputError(
                        f"ConcatDataset: task {task!r}: {field} is {first!r} in {source} and "
                        f"{value!r} in {name}; make them equal, or rename one of the tasks"
                    )
            if fields:
                merged[task] = fields | merged.get(task, {})
    return others | merged


def _check_ids(datasets: Sequence[Any]) -> None:
    """Raise InputError where files that a test names by ids would overwrite each other."""
    seen: dict[str, str] = {}
    for name, member in _numbered(datasets):
        for index in range(len(member)) if member.test_mode else ():
            sample_id = member.get_data_info(index)["sample_id"]
            if sample_id in seen:
                places = f"{seen[sample_id]} and in {name}; give one of them `id_prefix`"
                raise InputError(f"ConcatDataset: id {sample_id!r} is in {places}")
            seen[sample_id] = name
