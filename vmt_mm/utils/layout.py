"""Lists of ids and the files that belong to them, in the one folder layout.

Ids and names of files are compared in Unicode's composed form (NFC): macOS and some archives write
the same letters in another one. Letter case counts in an id, not in an ending.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from vmt_mm.errors import InputError

#: Endings that an image may have.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".npy", ".tif", ".tiff", ".webp")
_DATA_SUFFIXES = {*IMAGE_SUFFIXES, ".exr", ".hdr", ".mat", ".npz", ".pfm", ".pgm", ".ppm"}
#: What systems, archives and file servers leave in folders; as is whatever starts with a dot.
_HIDDEN = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Listing:
    """The files of one folder.

    Attributes:
        folder: where they lie.
        suffixes: endings that were asked for.
        files: id -> path, in the order of the paths.
        others: paths of the files with another ending.
    """

    folder: Path
    suffixes: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def near(self, name: str) -> str:
        """What is most like an id that has no file here, as a part of a message; or nothing."""
        for path in self.others:
            if _bare(Path(path).relative_to(self.folder).as_posix()) == name:
                return f", {path!r} has another ending than {', '.join(self.suffixes)}"
        return nearest_id(name, self.files)

    def unused(self, images: Collection[str]) -> str | None:
        """Say which files belong to none of the images; None if all do.

        A file with another ending counts where it could be a label: it is an image or an array, or
        its name is the id of an image that has no file here.

        Args:
            images: ids of all images, of whatever split.
        """
        found = [(i, path) for i, path in self.files.items() if i not in images]
        for path in self.others:
            name = _bare(Path(path).relative_to(self.folder).as_posix())
            ending = os.path.splitext(path)[1].lower()
            if ending in _DATA_SUFFIXES or (name in images and name not in self.files):
                found.append((name, path))
        if not found:
            return None
        (name, path), expected = found[0], " or ".join(f"<id>{suffix}" for suffix in self.suffixes)
        return (
            f"{self.folder}: {len(found)} file(s) belong to no image, the first is {path!r}"
            f"{nearest_id(name, images)}; expected {expected}, or say by the task's `suffix` how "
            "names end"
        )


def _bare(name: str) -> str:
    """A file's name without its ending, as ids are compared."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0])


def nearest_id(name: str, ids: Collection[str]) -> str:
    """The id that is most like a name, as a part of a message; empty if none is."""
    folded = name.casefold()
    near = (
        [i for i in ids if i.casefold() == folded]
        or sorted((i for i in ids if name.startswith(i)), key=len)[-1:]
        or get_close_matches(name, ids, 1)
    )
    return f", the nearest id is {near[0]!r}" if near else ""


def read_ids(path: Path) -> list[str]:
    """Read a split: one id a line; refuse what would count an image twice or leave the folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8; expected one id a line") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    lines = unicodedata.normalize("NFC", text).splitlines()
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise InputError(f"{path}: holds no id")
    if null := next((i for i in ids if "\0" in i), None):
        raise InputError(f"{path}: id {null!r} holds a NUL byte; expected one id a line")
    outside = [i for i in ids if leads_outside(i)]
    if outside:
        raise InputError(
            f"{path}: id {outside[0]!r} leads out of the data set; expected paths below images/, "
            "without suffix"
        )
    if len(set(ids)) < len(ids):
        twice = next(i for i, count in Counter(ids).items() if count > 1)
        raise InputError(f"{path}: id {twice!r} is listed twice")
    return ids


def leads_outside(name: str) -> bool:
    """Whether a path below a folder is none: it starts at the root, or goes up."""
    return name.startswith(("/", "\\")) or ".." in Path(name).parts


def list_files(folder: Path, suffixes: tuple[str, ...]) -> Listing:
    """List the files below ``folder`` by their id: the path below it without the ending.

    Links to files and folders are followed. Hidden files and folders are left out, and what
    editors and systems leave behind. Of several endings that fit, the longest is taken off.

    Raises:
        InputError: if two files have one id, a folder may not be read, or a link leads nowhere.
    """
    listing = Listing(folder, suffixes)
    endings = tuple(sorted((suffix.lower() for suffix in suffixes), key=len, reverse=True))
    start = len(os.path.join(folder, ""))
    for path in sorted(walk_files(folder, endings)) if folder.is_dir() else ():
        lower = path.lower()
        ending = next((e for e in endings if lower.endswith(e)), None)
        name = path[start : -len(ending)] if ending else ""
        if not name or name.endswith("/"):
            listing.others.append(path)
            continue
        name = unicodedata.normalize("NFC", name)
        if name in listing.files:
            raise InputError(
                f"{path} and {listing.files[name]} have the same id; remove one of them"
            )
        listing.files[name] = path
    for path in listing.others:
        if not os.path.exists(path):
            raise InputError(f"{path}: the link leads nowhere; mend or remove it")
    return listing


def files_by_id(folder: Path, suffixes: tuple[str, ...]) -> Mapping[str, str]:
    """Paths of the files below ``folder`` by their id, see :func:`list_files`."""
    return list_files(folder, suffixes).files


def walk_files(
    folder: Path | str,
    endings: tuple[str, ...] = (),
    above: tuple[tuple[int, int], ...] = (),
) -> Iterator[str]:
    """Yield the paths of all files below a folder that are not hidden, links followed.

    A link back to a folder that it lies in is not followed. Links that lead nowhere are files, too.

    Args:
        folder: where to look.
        endings: a folder whose name ends so, in lower case, counts as a file, which it stands in
            the place of.
        above: device and inode of the folders above, which a link may lead back to.

    Raises:
        InputError: if a folder may not be read.
    """
    try:
        state = os.stat(folder)
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not is_hidden(entry.name)]
    except OSError as error:
        raise InputError(f"{folder}: the folder cannot be read ({error.strerror})") from None
    identity = (state.st_dev, state.st_ino)
    if identity in above:
        return
    for entry in entries:
        if entry.is_dir() and not entry.name.lower().endswith(endings):
            yield from walk_files(entry.path, endings, (*above, identity))
        elif entry.is_file() or entry.is_dir() or not os.path.exists(entry.path):
            yield entry.path


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of a data set."""
    return name.startswith(".") or name.endswith("~") or name.lower() in _HIDDEN
