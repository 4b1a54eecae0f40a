"""Check a dataset's files: a quick look at a few labels, or a full verification."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from vmt_mm.datasets.concat import members_of
from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.transforms.load import size_problem
from vmt_mm.errors import InputError
from vmt_mm.tasks import LabelCounts, Task
from vmt_mm.utils.image_files import orientation_of
from vmt_mm.utils.layout import IMAGE_SUFFIXES, Listing, list_files, read_ids, samples_of
from vmt_mm.utils.processes import run_parallel

#: Limits of a quick look: labels per task, samples, seconds; tolerated share of invalid pixels per
#: label, since resampling creates some.
_LABELS, _SAMPLES, _SECONDS, _BROKEN = 32, 1024, 4.0, 0.02


def look_at_labels(dataset: Any) -> list[str]:
    """Return warnings about a few labels of every task; raise InputError if one is unusable."""
    members, said = list(members_of(dataset)), []
    for member in members:
        end = time.monotonic() + _SECONDS / len(members)
        for name, (counts, problems) in _look(member, end).items():
            spec, looked = member.label_specs[name], f"{counts.images} label(s)"
            problems += spec.find_suspicion(counts)
            folder = Path(str(member.data_root)) / spec.folder
            more = f"(based on {looked}; run tools/misc/verify_dataset.py to check all)"
            said += [f"{folder}: {what} {more}" for what in problems]
    return said


def _look(dataset: MultiTaskDataset, end: float) -> dict[str, tuple[LabelCounts, list[str]]]:
    """Return counts and the first invalid file's error per task, reading until the time ``end``."""
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
            if not problems:
                with _noted(problems):
                    spec.check_file(path, _BROKEN)
    return found


@dataclass
class Checked:
    """Result for one sample; ``turned``: EXIF rotates or mirrors it; ``counts`` per task."""

    problems: list[str] = field(default_factory=list)
    turned: bool = False
    counts: dict[str, LabelCounts] = field(default_factory=dict)


@dataclass
class Verification:
    """Result for a dataset: samples and label counts per split, problems and notes."""

    root: Path
    entries: dict[str, list[dict]] = field(default_factory=dict)
    summaries: dict[str, dict[str, LabelCounts]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self, names: Mapping[str, Mapping[int, str]]) -> dict[str, Any]:
        """Convert to plain types; ``names`` maps task -> value -> name."""
        splits: dict[str, Any] = {}
        for split, summaries in self.summaries.items():
            splits[split] = dict(images=len(self.entries[split]), tasks={})
            for task, counts in summaries.items():
                known, seen = names.get(task, {}), counts.images_with
                values = [
                    dict(value=value, name=known.get(value), pixels=pixels, images=seen[value])
                    for value, pixels in sorted(counts.values.items())
                ]
                sums = dict(labelled_pixels=counts.valid, pixels=counts.pixels, values=values)
                splits[split]["tasks"][task] = dict(images=counts.images, **sums)
        found = dict(data_root=str(self.root), sound=not self.problems, splits=splits)
        return found | dict(problems=self.problems, notes=self.notes)

    def table(self) -> Table:
        """Build a table with one row per split and task."""
        table = Table("split", "images", "task", title=str(self.root))
        for column in ("labelled", "of images", "of their pixels", "classes seen"):
            table.add_column(column, justify="right")
        for split, summaries in self.summaries.items():
            count = len(self.entries[split])
            for task, counts in summaries.items():
                share, valid = counts.images / max(count, 1), counts.valid / max(counts.pixels, 1)
                cells = (split, f"{count:,}", task, f"{counts.images:,}", f"{share:.1%}")
                table.add_row(*cells, f"{valid:.1%}", f"{len(counts.values) or '-'}")
            table.add_section()
        return table


def verify(
    root: Path,
    tasks: Mapping[str, Task],
    splits: Mapping[str, Path],
    workers: int = 1,
    reader: LoadImageFromFile | None = None,
) -> Verification:
    """Read and check every image and label of a folder.

    ``splits`` maps names to split files; ``workers`` is the number of processes; ``reader`` is the
    pipeline's image loader, by default a plain ``LoadImageFromFile``.
    """
    if not root.is_dir():
        raise InputError(f"{root}: not a folder; expected the root of a dataset")
    if missing := [path for path in splits.values() if not path.is_file()]:
        raise InputError(f"{missing[0]}: no such split file")
    result, reader = Verification(root), reader or LoadImageFromFile()
    _list_entries(result, tasks, splits)
    jobs = {entry["sample_id"]: entry for of in result.entries.values() for entry in of}
    read = partial(check_entry, tasks=tasks, reader=reader)
    found = run_parallel(read, list(jobs.values()), workers)
    checked = dict(zip(jobs, track(found, "reading", total=len(jobs)), strict=True))
    totals = {task: LabelCounts() for task in tasks}
    for split, entries in result.entries.items():
        summaries = result.summaries[split] = {task: LabelCounts() for task in tasks}
        for entry in entries:
            for task, counts in checked[entry["sample_id"]].counts.items():
                summaries[task].add(counts)
                totals[task].add(counts)
    result.problems += [problem for check in checked.values() for problem in check.problems]
    if turned := [jobs[i]["img_path"] for i, check in checked.items() if check.turned]:
        frame = "after applying it" if reader.turn_by_exif else "as stored, ignoring it"
        result.notes.append(
            f"{len(turned)} image(s) have an EXIF orientation, such as {turned[0]}; labels are "
            f"compared with pixels {frame} (LoadImageFromFile.turn_by_exif)"
        )
    for task, counts in totals.items():
        spec = tasks[task].label
        suspicion = spec.find_suspicion(counts)
        if jobs and not counts.images:
            suspicion = ["no image of the splits has a label"]
        result.problems += [f"{root / spec.folder}: {what}" for what in suspicion]
    return result


def check_entry(
    entry: Mapping[str, Any], tasks: Mapping[str, Task], reader: LoadImageFromFile
) -> Checked:
    """Read and check one image and its labels."""
    check, size, image = Checked(), None, entry["img_path"]
    with _noted(check.problems):
        content = reader.fetch(image)
        check.turned = orientation_of(content) != 1
        size = reader.decode(content, image).shape[:2]
    for name, path in entry["label_paths"].items():
        spec = tasks[name].label
        with _noted(check.problems):
            label = spec.decode(path)
            spec.check_file(path)
            if size and (problem := size_problem(path, label.shape[:2], image, size)):
                raise InputError(problem)
            check.counts[name] = spec.count(label)
    return check


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """Append an InputError of the ``with`` block to ``problems`` and suppress it."""
    try:
        yield
    except InputError as error:
        problems.append(str(error))


def _list_entries(
    result: Verification, tasks: Mapping[str, Task], splits: Mapping[str, Path]
) -> None:
    """Find the files of every id; add problems of splits and folders to ``result``."""

    def files(name: str, suffixes: tuple[str, ...]) -> Listing:
        folder = result.root / name
        if not folder.is_dir():
            result.problems.append(f"{folder}: no such folder")
        with _noted(result.problems):
            return list_files(folder, suffixes)
        return Listing(folder, suffixes)

    images = files("images", IMAGE_SUFFIXES)
    labels = {n: files(t.label.folder, t.label.suffixes) for n, t in tasks.items()}
    if images.files:
        result.problems += filter(None, (of.unused(images.files) for of in labels.values()))
    seen: dict[str, str] = {}
    for split, path in splits.items():
        ids = []
        with _noted(result.problems):
            ids = read_ids(path)
        twice = [f"id {i!r} is also in split {seen[i]!r}" for i in ids if i in seen]
        missing = images.missing(ids)
        result.problems += [f"{path}: {what}" for what in (*twice, missing) if what]
        seen |= {i: split for i in ids if i not in seen}
        ids = [i for i in ids if i in images.files]
        result.entries[split] = samples_of(ids, images, labels)


def choose_entries(entries: Iterable[dict], count: int) -> list[dict]:
    """Choose ``count`` samples spread over the dataset, each task in turn giving a labelled one."""
    left, chosen = list(entries), []
    tasks = sorted({name for entry in left for name in entry["label_paths"]}) or [""]
    for turn in range(min(count, len(left))):
        having = [e for e in left if tasks[turn % len(tasks)] in e["label_paths"]] or left
        chosen.append(having[(2 * turn + 1) * len(having) // (2 * count)])
        left.remove(chosen[-1])
    return chosen
