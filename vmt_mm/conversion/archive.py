"""Unpack tar archives; notice those that are damaged or truncated."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path

import rich.progress

from vmt_mm.errors import InputError

SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_DAMAGE = (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder, InputError if it is damaged."""
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with rich.progress.open(archive, "rb", description="unpacking") as packed:
            start = packed.read(6)
            packed.seek(0)
            opener = next((o for m, o in _COMPRESSIONS.items() if start.startswith(m)), None)
            stream = opener(packed) if opener else packed
            with tarfile.open(fileobj=stream, mode="r|") as members:
                members.extractall(partial, filter="data")
            while opener and stream.read(2**20):
                pass  # only at the end a decoder compares the checksum
            # tarfile takes a cut between two files, or a damaged header, for the end: zeros
            if not opener and packed.seek(members.offset) and packed.read(1024) != bytes(1024):
                raise EOFError("it does not end as a tar archive does")
    except _DAMAGE as error:
        if getattr(error, "errno", None) is not None:  # of the disk, not of the decoder
            raise
        raise InputError(f"{archive}: the archive is damaged or truncated ({error})") from None
    partial.rename(folder)
