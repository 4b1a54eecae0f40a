"""List an inferencer's inputs as images and videos that are read one by one."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vmt_mm.apis.pipeline import InferencePipeline
from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.utils.layout import IMAGE_SUFFIXES, is_hidden, walk_files
from vmt_mm.visualization.video import VideoReader

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Source:
    """One image, or the frames of one video."""

    id: str  # name of its outputs: a path without suffix; frames append their number
    path: Path | None = None
    array: np.ndarray | None = None  # set if there is no file

    @property
    def name(self) -> str:
        """Name in messages."""
        return str(self.path or f"array {self.id}")

    @property
    def is_video(self) -> bool:
        """Whether it is a video."""
        return self.path is not None and self.path.suffix.lower() in VIDEOS

    def read(self, pipeline: InferencePipeline) -> Iterator[tuple[str, str | None, np.ndarray]]:
        """Yield id, path and pixels (H, W[, C]) of the image, or of every frame."""
        if self.path is None:
            yield self.id, None, self.array
        elif not self.is_video:
            yield self.id, str(self.path), pipeline.read(self.path)
        else:
            with VideoReader(self.path) as reader:
                for number, frame in enumerate(reader):
                    image = pipeline.take(frame, self.name)
                    yield f"{self.id}/{number:06d}", str(self.path), image


def list_sources(inputs: Any, take: Callable[[np.ndarray, str], np.ndarray]) -> list[Source]:
    """List images and videos in the given order; folders and globs are sorted by name.

    The id of a file is its name; in a folder, its path relative to the folder; in a glob, its path
    relative to the part without wildcards. The id of an array is its position. Hidden files are
    left out. ``take`` converts an array to an image; its second argument is a name for errors.
    """
    sources: list[Source] = []
    for given in inputs if isinstance(inputs, (list, tuple)) else [inputs]:
        if isinstance(given, (str, Path)) and str(given):
            sources += _from_path(os.path.expanduser(given))
        else:
            place = f"{len(sources):08d}"
            sources.append(Source(place, array=take(given, f"input {place}")))
    if not sources:
        raise InputError("no input: the list is empty")
    return sources


def check_ids(sources: Sequence[Source]) -> None:
    """Raise InputError if two inputs would be written to the same file."""
    folders = {str(p) for source in sources for p in PurePosixPath(source.id).parents}
    ids = Counter(source.id for source in sources)
    ids.update(source.id for source in sources if source.is_video and source.id in folders)
    if twice := [sample_id for sample_id, count in ids.items() if count > 1]:
        raise InputError(
            f"{ids[twice[0]]} inputs have the same output name {twice[0]!r}; rename them, or pass "
            "their common parent folder as the input, since names then include subfolders"
        )


def read_images(
    sources: Sequence[Source], pipeline: InferencePipeline, skipped: dict[str, str] | None
) -> Iterator[tuple[str, str | None, np.ndarray]]:
    """Yield id, path and image of all; add unreadable files to ``skipped``, or raise if None."""
    for source in sources:
        try:
            yield from source.read(pipeline)
        except CorruptFileError as error:
            if skipped is None:
                raise
            skipped[source.name] = str(error)


def _from_path(text: str) -> list[Source]:
    """List the images and videos of a file, a folder or a glob."""
    path = Path(text)
    if path.is_file():
        return [Source(path.stem, path)]
    if path.is_dir():
        found, root = sorted(map(Path, walk_files(path))), path
    elif glob.has_magic(text):
        wild = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:wild])
        found = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if p.is_file())
        found = [p for p in found if not any(map(is_hidden, p.relative_to(root).parts))]
    else:
        raise InputError(f"{text}: no such file or folder")
    suffixes = (*IMAGE_SUFFIXES, *VIDEOS)
    found = [p for p in found if p.suffix.lower() in suffixes]
    if not found:
        raise InputError(f"{text}: found no image or video ({', '.join(suffixes)})")
    return [Source(p.relative_to(root).with_suffix("").as_posix(), p) for p in found]
