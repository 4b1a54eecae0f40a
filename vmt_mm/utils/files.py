"""Write files whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from vmt_mm.errors import InputError

#: Errors of a full disk, which no other file mends.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Suffix of files that are being written; what a killed process leaves behind ends with it.
PARTIAL = ".part"
_PARTIAL_NAME = re.compile(rf"\..+\.[a-z0-9_]{{8}}\{PARTIAL}")  # as `tempfile` makes them


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically.

    Yields the path of a temporary file beside it to write to; at the end that is flushed to the
    disk and renamed, and on any error removed, so that ``path`` is either what it was or whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_file_target(path: Path, name: str = "") -> None:
    """Raise InputError, before any work, where a file could not be written at the end.

    Args:
        path: of the file; it may exist, and folders above it need not.
        name: of the option that gave it, for the message.
    """
    if path.is_dir():
        raise InputError(f"{name} {path}: is a folder; name a file".strip())
    check_folder_target(path.absolute().parent, name)


def check_folder_target(folder: Path, name: str = "") -> None:
    """Raise InputError, before any work, where files could not be written into a folder.

    Args:
        folder: it need not exist.
        name: of the option that gave it, for the message.
    """
    folder = folder.absolute()
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        why = "is no folder" if not nearest.is_dir() else "may not be written to"
        raise InputError(f"{name} {folder}: nothing can be written there, {nearest} {why}".strip())


def check_outputs(
    outputs: Mapping[str, str | Path | None], inputs: Iterable[object], may_hold: bool = False
) -> None:
    """Refuse, before any work, an output that is, lies in, or holds something that is read.

    Files and folders are compared by what the file system says they are: links, hard links, ``..``,
    ``~`` and names of other case or Unicode form where those name one file.

    Args:
        outputs: option or argument -> file or folder to write; it need not exist. None is left out.
        inputs: paths that are read: folders, also with links in them, and files. Others, as None,
            addresses and arrays, are left out.
        may_hold: whether a folder to write may hold what is read, as a work dir does.

    Raises:
        InputError: which names the option, the output and the input.
    """
    read: dict[object, Path] = {}
    above: dict[object, Path] = {}
    for given in inputs:
        if isinstance(given, (str, Path)) and str(given) and "://" not in str(given):
            for place in _places(Path(given).expanduser()):
                real = place.resolve()
                read.setdefault(_identity(real), place)
                for parent in real.parents if not may_hold else ():
                    above.setdefault(_identity(parent), place)
    for name, path in outputs.items():
        own = None if path is None else Path(path).expanduser()
        for place in () if own is None else (own, *_links(own)):
            real = place.resolve()
            found = [read.get(_identity(p)) for p in (real, *real.parents)]
            found = [p for p in (*found, above.get(_identity(real))) if p is not None]
            if found:
                raise InputError(
                    f"{name} {path}: would write into {found[0]}, or over it, which is read; "
                    "choose another place"
                )


def _places(path: Path, depth: int = 2) -> Iterator[Path]:
    """A path, and what links in a folder and the folders in it lead to."""
    yield path
    if path.is_dir() and depth:
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
                below = _places(Path(entry.path), depth - 1)
                yield from below if entry.is_symlink() else islice(below, 1, None)


def _links(folder: Path) -> list[Path]:
    """Folders elsewhere that links in a folder lead to."""
    if not folder.is_dir():
        return []
    return [Path(e.path) for e in os.scandir(folder) if e.is_symlink() and e.is_dir()]


def _identity(path: Path) -> object:
    try:
        state = path.stat()
    except OSError:  # nothing is there yet
        return str(path)
    return state.st_dev, state.st_ino


def check_image_target(path: Path, name: str = "") -> None:
    """As :func:`check_file_target`; the suffix must be that of an image format, too."""
    if not (path.suffix and cv2.haveImageWriter(str(path))):
        raise InputError(f"{name} {path}: no image format is known by this suffix; take .png"
                         .strip())  # fmt: skip
    check_file_target(path, name)


def remove_partial(folder: Path) -> list[Path]:
    """Remove what writers that were killed left in ``folder``; return it."""
    left = sorted(p for p in folder.glob(f".*{PARTIAL}") if _PARTIAL_NAME.fullmatch(p.name))
    for path in left:
        path.unlink(missing_ok=True)
    return left


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock by the file ``path``; it ends with the process at the latest."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write JSON atomically."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def encode_image(image: np.ndarray, suffix: str, name: str | Path = "image") -> bytes:
    """Encode a grey (H, W) or RGB (H, W, 3) image in the format of the suffix.

    Raises:
        InputError: if it cannot be encoded so; it calls the image ``name``.
    """
    try:
        encoded, content = cv2.imencode(suffix, image if image.ndim == 2 else image[..., ::-1])
    except cv2.error:
        encoded = False
    if not encoded:
        raise InputError(f"{name}: cannot encode {image.dtype} of shape {image.shape}")
    return content.tobytes()


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a grey (H, W) or RGB (H, W, 3) image atomically, in the format of the suffix.

    Raises:
        InputError: if it cannot be encoded so.
    """
    write_bytes(path, encode_image(image, path.suffix, path))
