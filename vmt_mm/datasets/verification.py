"""Read a dataset's labels before they are used: a few of them, or every file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from vmt_mm.datasets.concat import members_of
from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.transforms.load_labels import size_problem
from vmt_mm.errors import InputError
from vmt_mm.tasks import LabelCounts, Task
from vmt_mm.utils.image_files import orientation_of
from vmt_mm.utils.layout import IMAGE_SUFFIXES, Listing, list_files, read_ids
from vmt_mm.utils.processes import run_parallel

#: Labels of a task that a look reads, samples that it goes through, and its seconds.
_LABELS, _SAMPLES, _SECONDS = 32, 1024, 4.0
#: Share of a label's pixels that may break the layout in a look: resampling made some of them.
_BROKEN = 0.02


def look_at_labels(dataset: Any) -> list[str]:
    """Read a few labels of every task, from all over a dataset, inside wrappers as well.

    Returns:
        What makes labels hardly those of their format, in words.

    Raises:
        InputError: if a label cannot be used, and the dataset does not skip such.
    """
    members = list(members_of(dataset))
    said: list[str] = []
    for member in members:
        end = time.monotonic() + _SECONDS / len(members)
        for name, (counts, problems) in _look(member, end).items():
            problems += member.label_specs[name].find_suspicion(counts)
            said += [
                f"{Path(member.data_root) / name}: {what} ({counts.images} label(s) were looked at;"
                " tools/misc/verify_dataset.py reads all)"
                for what in problems
            ]
    return said


def _look(dataset: MultiTaskDataset, end: float) -> dict[str, tuple[LabelCounts, list[str]]]:
    """Counts by task until the time ``end``, and the first error of a file against the layout."""
    found = {name: (LabelCounts(), []) for name in dataset.label_specs}
    order = np.random.default_rng(0).permutation(len(dataset))[:_SAMPLES]
    for index in order.tolist():
        for name, path in dataset.get_data_info(index)["label_paths"].items():
            spec, (counts, problems) = dataset.label_specs[name], found[name]
            if counts.images >= _LABELS or time.monotonic() > end:
                continue
            try:
                counts.add(spec.count(spec.decode(path)))
            except InputError:
                if dataset.on_error == "raise":
                    raise
                continue
            try:
                if not problems:
                    spec.check_file(path, _BROKEN)
            except InputError as error:
                problems.append(str(error))
    return found


@dataclass(frozen=True)
class Entry:
    """One image of a split, what reads it, and the label files that it has, by task."""

    sample_id: str
    image: str
    labels: Mapping[str, str]
    tasks: Mapping[str, Task]
    reader: LoadImageFromFile


@dataclass
class Checked:
    """Problems of an image and its labels, whether viewers turn it, counts of labels by task."""

    problems: list[str] = field(default_factory=list)
    turned: bool = False
    counts: dict[str, LabelCounts] = field(default_factory=dict)


@dataclass
class Verification:
    """What was found in a dataset: images and counts by split, problems, and notes."""

    root: Path
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    summaries: dict[str, dict[str, LabelCounts]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self, names: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
        """Plain types; ``names`` are those of the values, by task."""
        splits: dict[str, Any] = {}
        for split, summaries in self.summaries.items():
            tasks = {}
            for task, counts in summaries.items():
                known = names.get(task, {})
                values = [
                    dict(value=v, pixels=n, images=counts.images_with[v])
                    | (dict(name=known[v]) if v in known else {})
                    for v, n in sorted(counts.values.items())
                ]
                sums = dict(images=counts.images, labelled_pixels=counts.valid)
                tasks[task] = dict(sums, pixels=counts.pixels, values=values)
            splits[split] = dict(images=len(self.entries[split]), tasks=tasks)
        found = dict(data_root=str(self.root), sound=not self.problems, splits=splits)
        return dict(found, problems=self.problems, notes=self.notes)

    def table(self) -> Table:
        """One row per split and task."""
        table = Table("split", "images", "task", title=str(self.root))
        for column in ("labelled", "of images", "of their pixels", "classes seen"):
            table.add_column(column, justify="right")
        for split, summaries in self.summaries.items():
            count = len(self.entries[split])
            for task, counts in summaries.items():
                share, valid = counts.images / max(count, 1), counts.valid / max(counts.pixels, 1)
                cells = (split, f"{count:,}", task, f"{counts.images:,}")
                table.add_row(
                    *cells, f"{share:.1%}", f"{valid:.1%}", f"{len(counts.values) or '-'}"
                )
            table.add_section()
        return table


def verify(
    root: Path,
    tasks: Mapping[str, Task],
    splits: Mapping[str, Path],
    workers: int = 1,
    reader: LoadImageFromFile | None = None,
) -> Verification:
    """Read every image and label of the splits.

    Args:
        root: folder in the one layout.
        tasks: the tasks whose labels are read.
        splits: name of a split -> file with its ids.
        workers: processes.
        reader: reads the images; None takes one with no options.

    Raises:
        InputError: if the folder or a split is not there.
    """
    if not root.is_dir():
        raise InputError(f"{root}: is not a folder; expected a dataset there")
    if missing := [path for path in splits.values() if not path.is_file()]:
        raise InputError(f"{missing[0]}: no such list of ids")
    result = Verification(root)
    _list_entries(result, tasks, splits, reader or LoadImageFromFile())
    jobs = list({e.sample_id: e for entries in result.entries.values() for e in entries}.values())
    found = track(run_parallel(check_entry, jobs, workers), "reading", total=len(jobs))
    checked = {job.sample_id: check for job, check in zip(jobs, found, strict=True)}
    in_all = {task: LabelCounts() for task in tasks}
    for split, entries in result.entries.items():
        summaries = result.summaries[split] = {task: LabelCounts() for task in tasks}
        for entry in entries:
            for task, counts in checked[entry.sample_id].counts.items():
                summaries[task].add(counts)
        for task, counts in summaries.items():
            in_all[task].add(counts)
    result.problems += [problem for check in checked.values() for problem in check.problems]
    if turned := [job.image for job in jobs if checked[job.sample_id].turned]:
        frame = "turned by it" if jobs[0].reader.turn_by_exif else "as their pixels are stored"
        result.notes.append(
            f"{len(turned)} image(s) have an EXIF orientation, as {turned[0]}; images and labels "
            f"are taken {frame} (turn_by_exif of LoadImageFromFile)"
        )
    for task, counts in in_all.items():
        suspicion = tasks[task].label.find_suspicion(counts)
        if jobs and not counts.images:
            suspicion = ["no image of the splits has a label"]
        result.problems += [f"{root / task}: {what}" for what in suspicion]
    return result


def check_entry(entry: Entry) -> Checked:
    """Read one image and its labels."""
    check, size = Checked(), None
    try:
        content = entry.reader.fetch(entry.image)
        check.turned = orientation_of(content) != 1
        size = entry.reader.decode(content, entry.image).shape[:2]
    except InputError as error:
        check.problems.append(str(error))
    for name, path in entry.labels.items():
        spec = entry.tasks[name].label
        try:
            label = spec.decode(path)
            spec.check_file(path)
            if size and (problem := size_problem(path, label.shape[:2], entry.image, size)):
                raise InputError(problem)
            check.counts[name] = spec.count(label)
        except InputError as error:
            check.problems.append(str(error))
    return check


def _list_entries(
    result: Verification,
    tasks: Mapping[str, Task],
    splits: Mapping[str, Path],
    reader: LoadImageFromFile,
) -> None:
    """Find the files of every id; note lists, folders and images that are not as they must be."""
    root, problems = result.root, result.problems

    def files(name: str, suffixes: tuple[str, ...]) -> Listing:
        if not (root / name).is_dir():
            problems.append(f"{root / name}: no such folder")
        try:
            return list_files(root / name, suffixes)
        except InputError as error:
            problems.append(str(error))
            return Listing(root / name, suffixes)

    images = files("images", IMAGE_SUFFIXES)
    labels = {name: files(name, task.label.suffixes) for name, task in tasks.items()}
    if images.files:
        problems += filter(None, (of.unused(images.files) for of in labels.values()))
    seen: dict[str, str] = {}
    for split, path in splits.items():
        entries = result.entries[split] = []
        ids, near = [], None
        try:
            ids = read_ids(path)
        except InputError as error:
            problems.append(str(error))
        for i in ids:
            if i in seen:
                problems.append(f"{path}: id {i!r} is in split {seen[i]!r} as well")
            seen.setdefault(i, split)
            if image := images.files.get(i):
                own = {name: of.files[i] for name, of in labels.items() if i in of.files}
                entries.append(Entry(i, image, own, tasks, reader))
            else:  # the nearest id of the first one alone: among many ids it takes long
                near = images.near(i) if near is None else ""
                problems.append(f"{path}: id {i!r} has no image in {images.folder}{near}")


def choose_entries(entries: Iterable[Entry], count: int) -> list[Entry]:
    """Choose images to look at: each task in turn gives one that has its label, from all over."""
    entries = list(entries)
    tasks = sorted({name for entry in entries for name in entry.labels})
    rounds = -(-count // max(len(tasks), 1))
    chosen: dict[str, Entry] = {}
    for turn in range(rounds):
        for task in tasks:
            having = [e for e in entries if task in e.labels and e.sample_id not in chosen]
            if having and len(chosen) < count:
                entry = having[(2 * turn + 1) * len(having) // (2 * rounds)]
                chosen[entry.sample_id] = entry
    return list(chosen.values())
