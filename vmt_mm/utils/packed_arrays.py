"""Many small groups of arrays in one file that is mapped into memory.

The arrays come first, then one JSON record a group that says where its arrays lie, the records'
offsets, and a trailer. The pages of a mapped file are shared by all processes that read it.
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

#: Magic and version, the content's key, number of groups, position of the records' offsets.
_TRAILER = struct.Struct("<8s32sQQ")
_MAGIC = b"vmtpack2"  # 1 kept labels as an older reader understood them
#: Arrays start at multiples of this, a cache line.
_ALIGN = 64


class PackedArraysWriter:
    """Write groups of arrays one after another.

    Args:
        stream: a new file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._records: list[bytes] = []

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Append a group."""
        record = {}
        for name, array in arrays.items():
            self._stream.write(bytes(-self._stream.tell() % _ALIGN))
            record[name] = (self._stream.tell(), array.dtype.str, array.shape)
            self._stream.write(np.ascontiguousarray(array).data)
        self._records.append(json.dumps(record).encode())

    def finish(self, key: bytes) -> None:
        """Write the records and the trailer; ``key``, 32 bytes, says what the content is."""
        lengths = [self._stream.tell(), *map(len, self._records)]
        self._stream.write(b"".join(self._records))
        self._stream.write(bytes(-self._stream.tell() % _ALIGN))
        position = self._stream.tell()
        self._stream.write(np.cumsum(lengths, dtype=np.int64).data)
        self._stream.write(_TRAILER.pack(_MAGIC, key, len(self._records), position))


class PackedArrays:
    """The groups of a file that :class:`PackedArraysWriter` wrote; pickled as its path alone.

    Args:
        path: the file.
        key: what was given to ``finish``.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is not whole, or its content has another key.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self._key = path, key
        with path.open("rb") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = len(self._map) - _TRAILER.size
        if start < 0:
            raise ValueError(f"{path}: too short")
        magic, found, count, position = _TRAILER.unpack_from(self._map, start)
        if magic != _MAGIC or found != key or position + 8 * (count + 1) != start:
            raise ValueError(f"{path}: not whole, or of another content")
        self._offsets = np.frombuffer(self._map, np.int64, count + 1, position)

    def __reduce__(self) -> tuple:
        return PackedArrays, (self.path, self._key)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Read-only views into the mapped file."""
        record = json.loads(self._map[self._offsets[index] : self._offsets[index + 1]])
        return {
            name: np.ndarray(shape, dtype, self._map, offset)
            for name, (offset, dtype, shape) in record.items()
        }
