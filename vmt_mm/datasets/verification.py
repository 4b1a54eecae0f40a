"""Read a whole data set once and say everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import track

from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.transforms.loading import other_frame
from vmt_mm.datasets.verification_result import Entry, Verification
from vmt_mm.errors import InputError
from vmt_mm.tasks import LabelCounts, Task
from vmt_mm.utils.image_files import orientation_of
from vmt_mm.utils.layout import IMAGE_SUFFIXES, Listing, list_files, read_ids
from vmt_mm.utils.processes import run_parallel


@dataclass
class Checked:
    """What one image and its labels hold.

    Attributes:
        problems: in words, each with the file's name.
        turned: whether viewers turn the image, by its EXIF orientation.
        counts: task -> what its label holds, of labels that could be read.
    """

    problems: list[str] = field(default_factory=list)
    turned: bool = False
    counts: dict[str, LabelCounts] = field(default_factory=dict)


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
        raise InputError(f"{root}: is not a folder; expected a data set there")
    if workers < 1:
        raise InputError(f"workers: must be 1 or more, got {workers}")
    result = Verification(root)
    for path in splits.values():
        if not path.is_file():
            raise InputError(f"{path}: no such list of ids")
    _list_entries(result, tasks, splits, reader or LoadImageFromFile())
    jobs = list({e.sample_id: e for entries in result.entries.values() for e in entries}.values())
    found = run_parallel(check_entry, jobs, workers)
    found = track(found, description="reading", total=len(jobs))
    checked = {job.sample_id: check for job, check in zip(jobs, found, strict=True)}
    for split, entries in result.entries.items():
        summaries = result.summaries[split] = {task: LabelCounts() for task in tasks}
        for entry in entries:
            for task, counts in checked[entry.sample_id].counts.items():
                summaries[task].add(counts)
    result.problems += [problem for check in checked.values() for problem in check.problems]
    if turned := [job.image for job in jobs if checked[job.sample_id].turned]:
        frame = "turned by it" if jobs[0].reader.turn_by_exif else "as their pixels are stored"
        result.notes.append(
            f"{len(turned)} image(s) have an EXIF orientation, as {turned[0]}; images and labels "
            f"are taken {frame} (turn_by_exif of LoadImageFromFile)"
        )
    for name, task in tasks.items():
        counts = LabelCounts()
        for summaries in result.summaries.values():
            counts.add(summaries[name])
        suspicion = task.label.find_suspicion(counts)
        if jobs and not counts.images:
            suspicion = ["no image of the splits has a label"]
        result.problems += [f"{root / name}: {what}" for what in suspicion]
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
        except InputError as error:
            check.problems.append(str(error))
            continue
        if size is not None and label.shape[:2] != size:
            check.problems.append(
                f"{path}: label of size {label.shape[:2]} (height, width), but {entry.image} has "
                f"{size}{other_frame(entry.image, label.shape[:2], size)}"
            )
            continue
        check.counts[name] = spec.count(label)
    return check


def _list_entries(
    result: Verification,
    tasks: Mapping[str, Task],
    splits: Mapping[str, Path],
    reader: LoadImageFromFile,
) -> None:
    """Find the files of every id; note lists, folders and images that are not as they must be."""
    root = result.root
    listing = _files(result, root / "images", IMAGE_SUFFIXES)
    images = listing.files
    labels = {name: _files(result, root / name, t.label.suffixes) for name, t in tasks.items()}
    if images:
        result.problems += filter(None, (of.unused(images) for of in labels.values()))
    seen: dict[str, str] = {}
    for split, path in splits.items():
        result.entries[split], ids, missing = [], [], False
        try:
            ids = read_ids(path)
        except InputError as error:
            result.problems.append(str(error))
        for i in ids:
            if i in seen:
                result.problems.append(f"{path}: id {i!r} is in split {seen[i]!r} as well")
            seen.setdefault(i, split)
            if i not in images:
                near = "" if missing else listing.near(i)  # which takes long among many ids
                missing = True
                result.problems.append(f"{path}: id {i!r} has no image in {root / 'images'}{near}")
                continue
            own = {name: of.files[i] for name, of in labels.items() if i in of.files}
            result.entries[split].append(Entry(i, images[i], own, tasks, reader))


def _files(result: Verification, folder: Path, suffixes: tuple[str, ...]) -> Listing:
    if not folder.is_dir():
        result.problems.append(f"{folder}: no such folder")
    try:
        return list_files(folder, suffixes)
    except InputError as error:
        result.problems.append(str(error))
        return Listing(folder, suffixes)


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
