"""Raw data sets as they are had: a folder, or an archive of one."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import rich.progress

from vmt_mm.errors import InputError

#: Size in bytes and time of the last change in nanoseconds: another pair means another content.
Stamp = tuple[int, int]

_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
#: Length of the zeros that end a tar archive.
_END = 1024
_DAMAGE = (tarfile.TarError, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


class Source(Protocol):
    """Files by their path below the data set's folder."""

    #: Folder with the files that were fetched.
    root: Path
    #: Whether the files there are copies, made here.
    is_copy: bool

    def stamp(self, file: str) -> Stamp | None:
        """Size and time of a file; None if there is none."""

    def fetch(self, files: Collection[str]) -> None:
        """Make files that have a stamp readable below ``root``."""

    def close(self) -> None:
        """Remove what was put there meanwhile."""


class Folder:
    """A data set that lies unpacked."""

    is_copy = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def stamp(self, file: str) -> Stamp | None:  # noqa: D102
        try:
            found = (self.root / file).stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns

    def fetch(self, files: Collection[str]) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is to be done."""


class Archive:
    """A data set in a tar archive, at any depth.

    It is read from its start to its end, once to list it and once to unpack what is needed: in
    compressed archives nothing can be found more quickly. What a killed run unpacked is used again.

    Args:
        path: the archive.
        scratch: folder to unpack into.
        landmark: a file of the data set, by which the depth is found.
    """

    is_copy = True

    def __init__(self, path: Path, scratch: Path, landmark: str) -> None:
        self.path, self.root = path, scratch
        with self._members("listing") as members:
            stamps = {m.name: (m.size, int(m.mtime * 10**9)) for m in members if m.isfile()}
        found = [name for name in stamps if f"/{name}".endswith(f"/{landmark}")]
        if not found:
            raise InputError(f"{path}: holds no {landmark}")
        self._prefix = min(found, key=len).removesuffix(landmark)
        self._stamps = {
            name.removeprefix(self._prefix): stamp
            for name, stamp in stamps.items()
            if name.startswith(self._prefix)
        }

    def stamp(self, file: str) -> Stamp | None:  # noqa: D102
        return self._stamps.get(file)

    def fetch(self, files: Collection[str]) -> None:
        """Unpack; a file's time is set last, and so tells whether it is whole."""
        unpacked = Folder(self.root)
        wanted = {f for f in files if unpacked.stamp(f) != self._stamps[f]}
        if not wanted:
            return
        with self._members("unpacking") as members:
            for member in members:
                file = member.name.removeprefix(self._prefix)
                if file not in wanted or not member.name.startswith(self._prefix):
                    continue
                target = self.root / file
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as output:
                    shutil.copyfileobj(members.extractfile(member), output)
                os.utime(target, ns=(self._stamps[file][1],) * 2)

    def close(self) -> None:
        """Remove what was unpacked."""
        shutil.rmtree(self.root, ignore_errors=True)

    @contextmanager
    def _members(self, doing: str) -> Iterator[tarfile.TarFile]:
        """The archive as a stream, with a bar."""
        try:
            with (
                rich.progress.open(self.path, "rb", description=doing) as packed,
                _unpacked(packed) as stream,
                tarfile.open(fileobj=(whole := _ToTheEnd(stream)), mode="r|") as members,
            ):
                yield members
                whole.finish()
        except _DAMAGE as error:
            raise InputError(
                f"{self.path}: the archive is damaged or truncated ({error})"
            ) from None


def _unpacked(stream: BinaryIO) -> BinaryIO:
    """The content of a compressed file, of whatever kind."""
    start = stream.read(6)
    stream.seek(0)
    for magic, opener in _COMPRESSIONS.items():
        if start.startswith(magic):
            return opener(stream)
    return stream


class _ToTheEnd:
    """A stream of a tar archive that notices if it ends too early.

    ``tarfile`` takes one that was cut between two files, or within a header, for a whole one.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._last = stream, b""

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        content = self._stream.read(size)
        self._last = (self._last + content[-_END:])[-_END:]
        return content

    def finish(self) -> None:
        """Raise EOFError unless the mark that ends every archive comes last."""
        while self.read(2**20):
            pass
        if self._last != bytes(_END):
            raise EOFError("it ends too early")


def open_source(path: Path, scratch: Path, landmark: str) -> Source:
    """Open a folder or an archive.

    Args:
        path: either.
        scratch: folder that an archive may be unpacked into.
        landmark: a file that the data set must have.

    Raises:
        InputError: if it is neither, is damaged, or has no such file.
    """
    if path.is_dir():
        if not (path / landmark).is_file():
            raise InputError(f"{path / landmark}: no such file; is {path} the data set's folder?")
        return Folder(path)
    if not path.is_file() or not path.name.endswith(_ARCHIVES):
        raise InputError(f"{path}: expected a folder or an archive ({', '.join(_ARCHIVES)})")
    return Archive(path, scratch, landmark)
