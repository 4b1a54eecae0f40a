"""Convert a raw dataset; a repeated run converts only new and changed images."""

import bz2
import gzip
import json
import lzma
import os
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.progress
from rich.table import Table

from vmt_mm.conversion.image import DAMAGED, STATES, WRITTEN, ImageJob, Outcome, convert_image
from vmt_mm.conversion.recipe import Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.files import check_outputs, remove_partial, write_bytes, write_json
from vmt_mm.utils.layout import read_ids
from vmt_mm.utils.processes import run_parallel

#: Files in the target. The journal has a header, then one line per finished image: its ``id``,
#: ``sources`` (raw file -> size and modification time) and ``outcomes``.
REPORT, JOURNAL = "report.json", "conversion.jsonl"
#: Folder in the target for the unpacked archive, removed at the end.
_SCRATCH = ".unpacked"
# Increment whenever the same raw files give different labels.
_VERSION = 1
_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DAMAGE = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error)


@dataclass
class Report:
    """Counts and problems of a conversion; without ``problems``, the dataset is complete.

    ``converted_now`` is the number of images converted by this run. ``splits`` has a dict per
    split: ``expected`` (number of ids), and for ``image`` and each task the number per state.
    """

    dataset: str
    converted_now: int
    splits: Mapping[str, Mapping[str, Any]]
    notes: Mapping[str, Mapping[str, int]]
    problems: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of ``report.json``."""
        return dict(vars(self), whole=not self.problems)

    def table(self) -> Table:
        """Build a table with one row per split and task."""
        table = Table("split", "what", *STATES, "expected", title=self.dataset)
        for split, counts in self.splits.items():
            for name in list(counts)[1:]:
                numbers = [f"{counts[name].get(state, 0):,}" for state in STATES]
                table.add_row(split, name, *numbers, f"{counts['expected']:,}")
            table.add_section()
        return table


def convert(
    recipe: Recipe, source: Path, target: Path, workers: int = 1, link: bool = False
) -> Report:
    """Convert a raw dataset to the folder layout of :class:`MultiTaskDataset`.

    ``source`` is a folder or a tar archive. A repeated run converts only new and changed images.
    Splits list usable images only; ``link`` hard-links images instead of copying them. Raises
    InputError if ``source`` is not such a dataset, or ``target`` has other content.
    """
    source, target = source.expanduser().resolve(), target.expanduser().resolve()
    check_outputs(dict(target=target), [source])
    header = dict(recipe=recipe.name, version=_VERSION, settings=dict(recipe.settings))
    journal = _read_journal(target, header)
    root = _open(recipe, source, target)
    splits = {split: read_ids(root / file) for split, file in recipe.splits.items()}
    ids = list(dict.fromkeys(i for of_split in splits.values() for i in of_split))

    jobs = {i: ImageJob(i, recipe, root, target, link) for i in ids}
    sources = {i: {file: _stamp(root / file) for file in recipe.files_of(i)} for i in ids}
    entries = {i: journal[i] for i in ids if _is_current(journal.get(i), sources[i], jobs[i])}
    stale = [i for i in ids if i not in entries]
    _prepare(recipe, target, complete=not stale)
    lines = [json.dumps(line) for line in (header, *entries.values())]
    write_bytes(target / JOURNAL, "".join(f"{line}\n" for line in lines).encode())
    results = run_parallel(convert_image, [jobs[i] for i in stale], workers)
    results = rich.progress.track(results, description="converting", total=len(stale))
    for i, outcomes in zip(stale, results, strict=True):
        entries[i] = dict(id=i, sources=sources[i], outcomes=outcomes)
        with (target / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(entries[i])}\n")
    all_outcomes = {i: entry["outcomes"] for i, entry in entries.items()}
    for split, of_split in splits.items():
        usable = [i for i in of_split if all_outcomes[i]["image"]["state"] == WRITTEN]
        write_bytes(target / f"splits/{split}.txt", "".join(f"{i}\n" for i in usable).encode())
    report = _make_report(recipe, splits, all_outcomes, len(stale))
    write_json(target / REPORT, report.as_dict())
    shutil.rmtree(target / _SCRATCH, ignore_errors=True)  # also left by an earlier run
    return report


def _read_journal(target: Path, header: Mapping[str, Any]) -> dict[str, Any]:
    """Return {id: entry} of images converted with the same settings; refuse other folders."""
    if not (target / JOURNAL).is_file():
        if target.exists() and any(path.name != _SCRATCH for path in target.iterdir()):
            raise InputError(f"{target}: is not empty and no converter wrote it; use a new folder")
        return {}
    lines = []
    for line in (target / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # last line of a killed run
    found, *entries = lines or [{}]
    if found.get("recipe", header["recipe"]) != header["recipe"]:
        raise InputError(f"{target}: contains {found['recipe']}, not {header['recipe']}")
    return {entry["id"]: entry for entry in entries} if found == header else {}


def _open(recipe: Recipe, source: Path, target: Path) -> Path:
    """Return the raw dataset's folder: ``source``, or the folder of the unpacked archive."""
    first_list = next(iter(recipe.splits.values()))
    if source.is_dir():
        if not (source / first_list).is_file():
            raise InputError(f"{source / first_list}: no such file; is {source} the raw dataset?")
        return source
    if not source.is_file() or not (recipe.unpack or source.name.endswith(_SUFFIXES)):
        raise InputError(f"{source}: expected a folder or an archive ({', '.join(_SUFFIXES)})")
    # reuse the folder of a killed run if the archive is unchanged
    settings = zlib.crc32(json.dumps(dict(recipe.settings)).encode())
    unpacked = target / _SCRATCH / "-".join(map(str, (*(_stamp(source) or ()), settings)))
    partial = unpacked.with_name(f"{unpacked.name}.part")
    is_new = not target.exists()
    if not unpacked.is_dir():
        try:
            shutil.rmtree(partial, ignore_errors=True)
            (recipe.unpack or _unpack)(source, partial)
            partial.rename(unpacked)
        except InputError:
            shutil.rmtree(target if is_new else target / _SCRATCH, ignore_errors=True)
            raise
    found = sorted(unpacked.rglob(first_list), key=lambda path: len(path.parts))
    if not found:
        raise InputError(f"{source}: does not contain {first_list}")
    return found[0].parents[len(Path(first_list).parts) - 1]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder. Raises InputError if it is damaged."""
    try:
        with rich.progress.open(archive, "rb", description="unpacking") as packed:
            start = packed.read(6)
            packed.seek(0)
            opener = next((o for m, o in _COMPRESSIONS.items() if start.startswith(m)), None)
            stream = opener(packed) if opener else packed
            with tarfile.open(fileobj=stream, mode="r|") as members:
                members.extractall(folder, filter="data")
            while opener and stream.read(2**20):
                pass  # a decoder checks the checksum only at the end
            # tarfile takes a cut or a damaged header for the end, which is marked by zeros
            if not opener and packed.seek(members.offset) and packed.read(1024) != bytes(1024):
                raise EOFError("no end-of-archive marker")
    except _DAMAGE as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk, not of the decoder
            raise
        raise InputError(f"{archive}: the archive is damaged or truncated ({error})") from None


def _stamp(file: Path) -> list[int] | None:
    """Return size in bytes and modification time in nanoseconds; None without a file."""
    if not file.exists():
        return None
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _is_current(entry: Mapping | None, sources: Mapping[str, Any], job: ImageJob) -> bool:
    """Whether an image's raw files and outputs are unchanged and none is damaged."""
    if entry is None or entry["sources"] != sources:
        return False
    sizes = {name: path.stat().st_size for name, path in job.outputs().items() if path.is_file()}
    written = {name: o["bytes"] for name, o in entry["outcomes"].items() if "bytes" in o}
    return sizes == written and all(o["state"] != DAMAGED for o in entry["outcomes"].values())


def _prepare(recipe: Recipe, target: Path, complete: bool) -> None:
    """Create folders; remove leftovers of killed runs, and the splits unless ``complete``."""
    for folder in ("images", "splits", *(rule.task for rule in recipe.labels)):
        (target / folder).mkdir(parents=True, exist_ok=True)
        for below, _, _ in os.walk(target / folder):
            remove_partial(Path(below))
    remove_partial(target)
    for file in (REPORT, *(f"splits/{split}.txt" for split in recipe.splits)):
        if not complete:
            (target / file).unlink(missing_ok=True)


def _make_report(
    recipe: Recipe,
    splits: Mapping[str, Sequence[str]],
    outcomes: Mapping[str, dict[str, Outcome]],
    converted: int,
) -> Report:
    """Count the outcomes of all images of the splits."""
    names = ("image", *(rule.task for rule in recipe.labels))
    counts, problems = {}, []
    for split, ids in splits.items():
        states = {name: dict(Counter(outcomes[i][name]["state"] for i in ids)) for name in names}
        counts[split] = dict(expected=recipe.expected[split], **states)
        if len(ids) != recipe.expected[split]:
            expected = f"{recipe.expected[split]:,} are expected"
            problems.append(f"{recipe.splits[split]}: lists {len(ids):,} ids, {expected}")
    listed = Counter(i for ids in splits.values() for i in ids)
    problems += [f"id {i!r} is in more than one split" for i in listed if listed[i] > 1]
    every = [(name, outcome) for i in listed for name, outcome in outcomes[i].items()]
    # dict: a file that several labels need is reported once
    problems += dict.fromkeys(outcome["reason"] for _, outcome in every if "reason" in outcome)
    notes: dict[str, Counter] = {}
    for name, outcome in every:
        if outcome.get("notes"):
            notes.setdefault(name, Counter()).update(outcome["notes"])
    problems += recipe.judge(notes) if recipe.judge else ()
    return Report(recipe.name, converted, counts, notes, problems)
