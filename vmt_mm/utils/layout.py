"""Ids of a dataset and their files, in the project's folder layout.

Ids and file names are compared in Unicode's composed form (NFC), since macOS and some archives use
another one. Ids are case-sensitive, suffixes are not.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from vmt_mm.errors import InputError

#: Suffixes of images.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".npy", ".tif", ".tiff", ".webp")
#: Files that systems and archives leave in folders, in addition to names that start with a dot.
_HIDDEN = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Listing:
    """Files of a folder: id -> path of those with ``suffixes``; (id, path) of all others."""

    folder: Path
    suffixes: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    others: list[tuple[str, str]] = field(default_factory=list)

    def missing(self, ids: Iterable[str]) -> str | None:
        """Return an error message if ids have no file here, else None."""
        if not (unknown := [i for i in ids if i not in self.files]):
            return None
        near, found = nearest_id(unknown[0], self.files), f"{len(unknown)} id(s) without an image"
        if path := dict(self.others).get(unknown[0]):
            near = f", {path!r} does not end with {' or '.join(self.suffixes)}"
        return f"{found} in {self.folder}, the first is {unknown[0]!r}{near}"

    def unused(self, images: Collection[str]) -> str | None:
        """Return an error message if files match no id in ``images`` (all splits), else None.

        Of files with other suffixes, only images count, and those whose image has no label here.
        """
        found = [(i, path) for i, path in self.files.items() if i not in images]
        for i, path in self.others:
            if path.lower().endswith(IMAGE_SUFFIXES) or (i in images and i not in self.files):
                found.append((i, path))
        if not found:
            return None
        (name, path), expected = found[0], " or ".join(f"<id>{suffix}" for suffix in self.suffixes)
        first = f"{len(found)} file(s) do not belong to an image, the first is {path!r}"
        near = nearest_id(name, images)
        return f"{self.folder}: {first}{near}; expected {expected}, or set the task's `suffix`"


def nearest_id(name: str, ids: Collection[str]) -> str:
    """Return ', the nearest id is ...' for the id most similar to ``name``, or ''."""
    folded = name.casefold()
    near = (
        [i for i in ids if i.casefold() == folded]
        or sorted((i for i in ids if name.startswith(i)), key=len)[-1:]
        or get_close_matches(name, ids, 1)
    )
    return f", the nearest id is {near[0]!r}" if near else ""


def read_ids(path: Path) -> list[str]:
    """Read a split, one id per line; raise InputError for duplicates and paths outside."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"{path}: cannot be read ({reason}); expected one id per line") from None
    lines = unicodedata.normalize("NFC", text).splitlines()
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path}: contains no id; expected one per line")
    if outside := next(filter(leads_outside, ids), None):
        raise InputError(f"{path}: id {outside!r} must be a path below images/, without suffix")
    if twice := [i for i, count in Counter(ids).items() if count > 1]:
        raise InputError(f"{path}: id {twice[0]!r} is listed twice")
    return ids


def samples_of(ids: Iterable[str], images: Listing, labels: Mapping[str, Listing]) -> list[dict]:
    """Return ``sample_id``, ``img_path`` and ``label_paths`` (per task) of each id."""
    return [
        dict(
            sample_id=i,
            img_path=images.files[i],
            label_paths={name: of.files[i] for name, of in labels.items() if i in of.files},
        )
        for i in ids
    ]


def leads_outside(name: str) -> bool:
    """Whether a name is not a path below a folder: absolute, with ``..``, or with NUL."""
    return name.startswith(("/", "\\")) or ".." in Path(name).parts or "\0" in name


def list_files(folder: Path, suffixes: tuple[str, ...]) -> Listing:
    """List the files below ``folder`` by id: the relative path without the longest suffix."""
    listing = Listing(folder, suffixes)
    endings = sorted((suffix.lower() for suffix in suffixes), key=len, reverse=True)
    start = len(os.path.join(folder, ""))
    for path in sorted(walk_files(folder)) if folder.is_dir() else ():
        name = unicodedata.normalize("NFC", path[start:].replace(os.sep, "/"))
        ending = next((e for e in endings if name.lower().endswith(e)), "")
        i = name[: len(name) - len(ending)]
        if ending and not f"/{i}".endswith("/"):
            if twin := listing.files.get(i):
                raise InputError(f"{path} and {twin} have the same id; remove one of them")
            listing.files[i] = path
        elif os.path.exists(path):
            listing.others.append((os.path.splitext(name)[0], path))
        else:
            raise InputError(f"{path}: broken symbolic link; fix or remove it")
    return listing


def walk_files(folder: Path | str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Yield the paths of all files and broken links below a folder, except hidden ones."""
    try:
        state = os.stat(folder)
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    identity = (state.st_dev, state.st_ino)  # a link may lead back to a folder above
    for entry in entries if identity not in above else ():
        if entry.is_dir():
            yield from walk_files(entry.path, (*above, identity))
        elif entry.is_file() or not os.path.exists(entry.path):
            yield entry.path


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is to be ignored."""
    return name.startswith(".") or name.endswith("~") or name.lower() in _HIDDEN
