"""A short look at a data set's labels before they are used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vmt_mm.datasets.concat import members_of
from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.errors import InputError
from vmt_mm.tasks import LabelCounts

#: Labels of a task that are read, samples that are asked for them, and seconds for all of it.
_LABELS, _SAMPLES, _SECONDS = 32, 1024, 4.0
#: Share of a label's pixels that may break the layout: resampling made some of them.
_BROKEN = 0.02


def look_at_labels(dataset: Any) -> list[str]:
    """Read a few labels of every task, from all over the data set.

    Args:
        dataset: one that was listed, within any wrappers.

    Returns:
        What makes labels hardly those of their format, in words, as ``LabelSpec.find_suspicion``
        says it.

    Raises:
        InputError: if a label cannot be used, and the data set does not skip such.
    """
    members = list(members_of(dataset))
    end = time.monotonic() + _SECONDS
    said: list[str] = []
    for number, member in enumerate(members, start=1):
        counts, broken = _count(member, end - _SECONDS * (1 - number / len(members)))
        said += [
            f"{Path(member.data_root) / name}: {what} ({of.images} label(s) were looked at; "
            "tools/misc/verify_dataset.py reads all)"
            for name, of in counts.items()
            for what in (*broken.get(name, ()), *member.label_specs[name].find_suspicion(of))
        ]
    return said


def _count(
    dataset: MultiTaskDataset, end: float
) -> tuple[dict[str, LabelCounts], dict[str, list[str]]]:
    """Count what a few labels of each task hold; stops at the time ``end``.

    Returns:
        The counts by task, and for tasks of which a file breaks the layout the first such error.
    """
    found = {name: LabelCounts() for name in dataset.label_specs}
    broken: dict[str, list[str]] = {}
    for paths in _spread(dataset):
        for name, path in paths.items():
            if found[name].images >= _LABELS:
                continue
            if time.monotonic() > end:
                return found, broken
            spec = dataset.label_specs[name]
            try:
                found[name].add(spec.count(spec.decode(path)))
            except InputError:
                if dataset.on_error == "raise":
                    raise
                continue
            if name not in broken:
                try:
                    spec.check_file(path, _BROKEN)
                except InputError as error:
                    broken[name] = [str(error)]
        if all(counts.images >= _LABELS for counts in found.values()):
            break
    return found, broken


def _spread(dataset: MultiTaskDataset) -> Iterator[dict[str, str]]:
    """Label paths of samples from all over a data set, the same ones each time."""
    order = np.random.default_rng(0).permutation(len(dataset))[:_SAMPLES]
    for index in order.tolist():
        yield dataset.get_data_info(index)["label_paths"]
