"""Raw data sets as they are had: a folder, or an archive of one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
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
_DAMAGE = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error)


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


class Archive:
    """A data set in a tar archive, at any depth.

    It is read from its start to its end, once to list it, which keeps the lists of ids, and once to
    unpack what else is needed, if anything is: in compressed archives nothing can be found more
    quickly. What a killed run unpacked is used again.

    Args:
        path: the archive.
        scratch: folder to unpack into.
        lists: files of the data set with its ids; the first tells at which depth it lies.
    """

    is_copy = True

    def __init__(self, path: Path, scratch: Path, lists: Sequence[str]) -> None:
        self.path, self.root = path, scratch
        stamps: dict[str, Stamp] = {}
        links: dict[str, str] = {}
        kept: dict[str, bytes] = {}
        with self._members("listing") as members:
            for member in members:
                if member.islnk():
                    links[member.name] = member.linkname
                if member.isfile():
                    stamps[member.name] = (member.size, int(member.mtime * 10**9))
                    if f"/{member.name}".endswith(tuple(f"/{file}" for file in lists)):
                        kept[member.name] = members.extractfile(member).read()
        found = [name for name in kept if f"/{name}".endswith(f"/{lists[0]}")]
        if not found:
            raise InputError(f"{path}: holds no {lists[0]}")
        self._prefix = min(found, key=len).removesuffix(lists[0])
        # Where the content of every file is: a hard link names the member that has it.
        holders = {name: name for name in stamps}
        holders |= {name: target for name, target in links.items() if target in stamps}
        holders = {n: h for n, h in holders.items() if n.startswith(self._prefix)}
        self._holders = {name.removeprefix(self._prefix): h for name, h in holders.items()}
        self._stamps = {file: stamps[holder] for file, holder in self._holders.items()}
        self._kept = kept

    def stamp(self, file: str) -> Stamp | None:  # noqa: D102
        return self._stamps.get(file)

    def fetch(self, files: Collection[str]) -> None:
        """Unpack; a file's time is set last, and so tells whether it is whole."""
        unpacked = Folder(self.root)
        wanted: dict[str, list[str]] = {}
        for file in files:
            if unpacked.stamp(file) != self._stamps[file]:
                wanted.setdefault(self._holders[file], []).append(file)
        for holder in wanted.keys() & self._kept.keys():
            self._unpack(io.BytesIO(self._kept[holder]), wanted.pop(holder))
        if not wanted:
            return
        with self._members("unpacking") as members:
            for member in members:
                if member.isfile() and member.name in wanted:
                    self._unpack(members.extractfile(member), wanted[member.name])

    def _unpack(self, content: BinaryIO, files: Sequence[str]) -> None:
        """Write one content as every file that has it."""
        for number, file in enumerate(files):
            target = self.root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            # What lies there from before may be one file with a finished image.
            target.unlink(missing_ok=True)
            if number:
                shutil.copyfile(self.root / files[0], target)
            else:
                with target.open("wb") as output:
                    shutil.copyfileobj(content, output)
            os.utime(target, ns=(self._stamps[file][1],) * 2)

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
                whole.finish(members.offset)
        except _DAMAGE as error:
            if getattr(error, "errno", None) is not None:  # of the disk, not of the decoder
                raise
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
    """A stream of a tar archive that notices if its files end too early.

    ``tarfile`` takes one that was cut between two files, or within a header, for a whole one, and a
    header that is damaged for the end.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._length, self._content_end = stream, 0, 0

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes."""
        content = self._stream.read(size)
        if used := len(content.rstrip(b"\0")):
            self._content_end = self._length + used
        self._length += len(content)
        return content

    def finish(self, end: int) -> None:
        """Raise EOFError unless zeros alone, enough of them, follow the last file.

        Args:
            end: where it ends, in bytes.
        """
        while self.read(2**20):
            pass
        if self._content_end > end:
            raise EOFError("what follows its last file is no end")
        if self._length - end < _END:
            raise EOFError("it ends too early")


def open_source(path: Path, scratch: Path, lists: Sequence[str]) -> Source:
    """Open a folder or an archive.

    Args:
        path: either.
        scratch: folder that an archive may be unpacked into.
        lists: files with the ids; the data set must have the first at least.

    Raises:
        InputError: if it is neither, is damaged, or has no such file.
    """
    if path.is_dir():
        first = path / lists[0]
        if not first.is_file():
            raise InputError(f"{first}: no such file; is {path} the data set's folder?")
        return Folder(path)
    if not path.is_file() or not path.name.endswith(_ARCHIVES):
        raise InputError(f"{path}: expected a folder or an archive ({', '.join(_ARCHIVES)})")
    return Archive(path, scratch, lists)
