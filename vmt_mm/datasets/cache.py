"""Decoded images and labels of a data set, packed into one file that all processes share.

What the files hold is kept as it is, at its own size and in its own 8 or 16 bits, so that samples
are the same as without a cache, bit for bit. A file that cannot be used is not kept: it is read
again each time, and so says what is wrong with it as it would without a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from vmt_mm.errors import InputError
from vmt_mm.tasks import LabelSpec
from vmt_mm.utils.files import atomic_write, lock, remove_partial
from vmt_mm.utils.packed_arrays import PackedArrays, PackedArraysWriter

_IMAGE, _LABEL = "image", "label/"
_THREADS = 8
#: Samples that are decoded ahead of the writing, by thread: bounds the memory.
_AHEAD = 4


@dataclass(frozen=True)
class StoredSample:
    """What the cache holds of one sample.

    Attributes:
        arrays: read-only views of what the files hold.
        label_specs: of the tasks.
    """

    arrays: Mapping[str, np.ndarray]
    label_specs: Mapping[str, LabelSpec]

    def image(self) -> np.ndarray | None:
        """The image (H, W, C), to write to; None if it has to be read."""
        return self.arrays[_IMAGE].copy() if _IMAGE in self.arrays else None

    def label(self, task: str) -> np.ndarray | None:
        """The label in memory (H, W[, C]), to write to; None if it has to be read."""
        values = self.arrays.get(_LABEL + task)
        if values is None:
            return None
        spec = self.label_specs[task]
        label = spec.interpret(values) if spec.cacheable_raw else values
        return label if label.flags.writeable else label.copy()


class SampleCache:
    """The stored samples of one data set, by their id.

    The file is written if it is not there, or if a source file has another size or time than when
    it was written. Processes that start together write it once; it appears whole or not at all.

    Args:
        folder: where the file lies.
        name: start of the file's name.
        samples: each with ``sample_id``, ``img_path`` and ``label_paths``.
        label_specs: of the tasks.
        read_image: reads an image (H, W, C), or raises InputError.
        reader: what else decides how images are read.

    Raises:
        InputError: if the folder or the file cannot be written, as on a full disk.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        samples: Sequence[Mapping],
        label_specs: Mapping[str, LabelSpec],
        read_image: Callable[[str], np.ndarray],
        reader: str = "",
    ) -> None:
        self.label_specs = label_specs
        self._positions = {sample["sample_id"]: n for n, sample in enumerate(samples)}
        paths = [[os.path.abspath(path) for path in _sources(sample)] for sample in samples]
        kinds = [[task, *spec.identity] for task, spec in label_specs.items()]
        content = [paths, kinds, reader]
        states = [[_state(path) for path in own] for own in paths]
        path = folder / f"{name}-{_digest(content).hex()[:12]}.cache"
        key = _digest([content, states])

        def read(sample: Mapping) -> dict[str, np.ndarray]:
            return _read(sample, label_specs, read_image)

        try:
            self._packed = _open(path, key) or _build(path, key, samples, read)
        except OSError as error:
            raise InputError(
                f"{path}: the cache cannot be opened or written ({error.strerror}); give the data "
                "set's `cache` a folder that can be written to and has room, or None for no cache"
            ) from error

    def __getitem__(self, sample_id: str) -> StoredSample:
        return StoredSample(self._packed[self._positions[sample_id]], self.label_specs)


def _sources(sample: Mapping) -> list[str]:
    """Paths of a sample's files."""
    return [sample["img_path"], *sample["label_paths"].values()]


def _state(path: str) -> list[int] | None:
    """What changes when a file does: size in bytes, time in nanoseconds."""
    try:
        state = os.stat(path)
    except OSError:  # reading it will say so
        return None
    return [state.st_size, state.st_mtime_ns]


def _digest(content: object) -> bytes:
    return hashlib.sha256(json.dumps(content).encode()).digest()


def _read(
    sample: Mapping, specs: Mapping[str, LabelSpec], read_image: Callable[[str], np.ndarray]
) -> dict[str, np.ndarray]:
    """Read what can be read of a sample's files."""
    arrays = {}
    with suppress(InputError):
        arrays[_IMAGE] = read_image(sample["img_path"])
    for task, path in sample["label_paths"].items():
        spec = specs[task]
        with suppress(InputError):
            read = spec.read if spec.cacheable_raw else spec.decode
            arrays[_LABEL + task] = read(path)
    return arrays


def _open(path: Path, key: bytes) -> PackedArrays | None:
    """Open a cache; None if it is not there, or not up to date."""
    try:
        return PackedArrays(path, key)
    except (FileNotFoundError, ValueError):
        return None


def _build(
    path: Path,
    key: bytes,
    samples: Sequence[Mapping],
    read: Callable[[Mapping], dict[str, np.ndarray]],
) -> PackedArrays:
    """Write the cache, unless another process does so meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(".lock")):
        packed = _open(path, key)
        if packed is not None:
            return packed
        remove_partial(path.parent)  # nobody else writes here as long as the lock is held
        with atomic_write(path) as partial, partial.open("wb") as stream:
            writer = PackedArraysWriter(stream)
            for arrays in track(
                _in_order(read, samples),
                description=f"packing {path}",
                total=len(samples),
                console=Console(stderr=True),
            ):
                writer.add(arrays)
            writer.finish(key)
        return PackedArrays(path, key)


def _in_order(
    read: Callable[[Mapping], dict[str, np.ndarray]], samples: Sequence[Mapping]
) -> Iterator[dict[str, np.ndarray]]:
    """Read samples on several threads, which decoders let run side by side."""
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for sample in samples:
            waiting.append(pool.submit(read, sample))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
