"""Concatenation of datasets that label different tasks."""

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

    Tasks that a member does not label count as missing there. A task's metainfo comes from the
    members that label it; raises InputError if they disagree. In test mode, ids must be unique
    across members because they name prediction files.

    Args:
        datasets: the members or their configs; ``lazy_init`` is mmengine's.

    Example::

        dict(type="ConcatDataset", datasets=[rooms, streets])  # two MultiTaskDataset configs
    """

    unread = dict(ignore_keys="make the members' `metainfo` equal")

    def __init__(self, datasets: Sequence[Any], lazy_init: bool = False, **kwargs: Any) -> None:
        refuse_unread(ConcatDataset, kwargs)
        if not isinstance(datasets, (list, tuple)) or not datasets:
            raise InputError(f"ConcatDataset: `datasets` must list at least one, got {datasets!r}")
        # mmengine's constructor is not called: it requires equal metainfo in all members.
        self.datasets = [DATASETS.build(d) if isinstance(d, dict) else d for d in datasets]
        self._metainfo = _merge_metainfo(self.datasets)
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Load the members' lists of samples."""
        if not self._fully_initialized:
            super().full_init()
            _check_ids(self.datasets)


def members_of(dataset: Any) -> Iterator[MultiTaskDataset]:
    """Yield every :class:`MultiTaskDataset` in a dataset, inside any wrappers."""
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    if isinstance(dataset, MultiTaskDataset):
        yield dataset
    for member in getattr(dataset, "datasets", ()):
        yield from members_of(member)


def _numbered(datasets: Sequence[Any]) -> Iterator[tuple[str, MultiTaskDataset]]:
    """Yield every innermost member and its name in messages."""
    for number, dataset in enumerate(datasets):
        for member in members_of(dataset):
            yield f"datasets[{number}] ({member.data_root})", member


def _merge_metainfo(datasets: Sequence[Any]) -> dict[str, Any]:
    """Merge metainfo per task: members that label it must agree; without any, the first counts."""
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
                        f"{value!r} in {name}; make them equal or rename one of the tasks"
                    )
            if fields:
                merged[task] = fields | merged.get(task, {})
    return others | merged


def _check_ids(datasets: Sequence[Any]) -> None:
    """Raise InputError if members in test mode share ids: predictions would be overwritten."""
    seen: dict[str, str] = {}
    for name, member in _numbered(datasets):
        for index in range(len(member)) if member.test_mode else ():
            sample_id = member.get_data_info(index)["sample_id"]
            if sample_id in seen:
                places = f"{seen[sample_id]} and in {name}; set `id_prefix` on one of them"
                raise InputError(f"ConcatDataset: id {sample_id!r} is in {places}")
            seen[sample_id] = name
