"""Convert a raw data set."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from rich.progress import track

from vmt_mm.conversion.image import WRITTEN, ImageJob, Outcome, convert_image
from vmt_mm.conversion.journal import Journal
from vmt_mm.conversion.recipe import Recipe
from vmt_mm.conversion.report import REPORT, Report, make_report
from vmt_mm.conversion.source import Source, open_source
from vmt_mm.errors import InputError
from vmt_mm.utils.files import check_outputs, remove_partial, write_bytes
from vmt_mm.utils.layout import read_ids
from vmt_mm.utils.processes import run_parallel

#: Folder below the target that an archive is unpacked into, removed at the end.
_SCRATCH = ".unpacked"


def convert(
    recipe: Recipe, source: Path, target: Path, workers: int = 1, link: bool = False
) -> Report:
    """Convert a raw data set to the one layout; go on where a run before was stopped.

    The source is only read. Every file appears whole or not at all. What was converted before, from
    raw files that have not changed since, is left as it is. A split lists the images that could be
    used; ``report.json`` says what is missing or damaged.

    Args:
        recipe: of the data set.
        source: folder or archive.
        target: folder; new, empty, or of a run before.
        workers: processes.
        link: make hard links of the images instead of copies.

    Raises:
        InputError: if the source is no such data set, or the target holds something else.
    """
    source, target = source.expanduser().resolve(), target.expanduser().resolve()
    check_outputs(dict(target=target), [source])
    if workers < 1:
        raise InputError(f"workers: must be 1 or more, got {workers}")
    journal = Journal(target, recipe)
    raw = open_source(source, target / _SCRATCH, list(recipe.splits.values()))
    for split, file in recipe.splits.items():
        if raw.stamp(file) is None:
            raise InputError(f"{source}: has no {file}, the ids of split {split!r}")
    journal.create()
    raw.fetch(recipe.splits.values())
    splits = {split: read_ids(raw.root / file) for split, file in recipe.splits.items()}
    ids = list(dict.fromkeys(i for of_split in splits.values() for i in of_split))

    stamps = {i: {file: raw.stamp(file) for file in recipe.files_of(i)} for i in ids}
    outcomes = {i: journal.outcomes(i, stamps[i]) for i in ids}
    stale = [i for i in ids if outcomes[i] is None]
    _prepare(recipe, target, ids, complete=not stale)
    journal.start({i: (stamps[i], outcomes[i]) for i in ids if outcomes[i] is not None})
    jobs = _jobs(recipe, raw, target, {i: stamps[i] for i in stale}, link)
    results = run_parallel(convert_image, jobs, workers)
    for job, result in zip(
        jobs, track(results, description="converting", total=len(jobs)), strict=True
    ):
        outcomes[job.image_id] = result
        journal.add(job.image_id, stamps[job.image_id], result)
    _write_splits(target, splits, outcomes)
    report = make_report(recipe, splits, outcomes, len(stale))
    report.write(target)
    shutil.rmtree(target / _SCRATCH, ignore_errors=True)  # of this run or of one before
    return report


def _prepare(recipe: Recipe, target: Path, ids: Iterable[str], complete: bool) -> None:
    """Make the folders, remove what killed runs left half-written, and what would say too much.

    Report and splits say that a set is whole. If it is not yet, they go first and come back last.
    """
    below = {Path(i).parent for i in ids} | {Path()}  # ids may have folders of their own
    for folder in (target / "images", *(target / rule.task for rule in recipe.labels)):
        folder.mkdir(parents=True, exist_ok=True)
        for parent in below:
            remove_partial(folder / parent)
    for folder in (target, target / "splits"):
        folder.mkdir(exist_ok=True)
        remove_partial(folder)
    if not complete:
        for file in (REPORT, *map(_split_file, recipe.splits)):
            (target / file).unlink(missing_ok=True)


def _jobs(recipe: Recipe, raw: Source, target: Path, stale: dict, link: bool) -> list[ImageJob]:
    """The images to convert, with their raw files at hand."""
    present = {i: frozenset(f for f, s in files.items() if s) for i, files in stale.items()}
    raw.fetch({file for files in present.values() for file in files})
    return [
        ImageJob(i, recipe, raw.root, files, target, link, raw.is_copy)
        for i, files in present.items()
    ]


def _write_splits(
    target: Path, splits: dict[str, list[str]], outcomes: dict[str, dict[str, Outcome]]
) -> None:
    for split, ids in splits.items():
        usable = [i for i in ids if outcomes[i]["image"]["state"] == WRITTEN]
        content = "".join(f"{i}\n" for i in usable)
        write_bytes(target / _split_file(split), content.encode())


def _split_file(split: str) -> str:
    return f"splits/{split}.txt"
