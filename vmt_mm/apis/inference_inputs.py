"""What an inferencer is given, as a list of images to read one by one."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.utils.files import check_folder_target
from vmt_mm.utils.layout import IMAGE_SUFFIXES, is_hidden, walk_files
from vmt_mm.visualization.video import VideoReader

#: Endings by which folders and globs are searched, and videos are told from images.
IMAGES = IMAGE_SUFFIXES
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")

#: One input, or several: path of an image, a video or a folder, glob, or array.
Inputs = str | Path | np.ndarray | Sequence["str | Path | np.ndarray"]


Item = TypeVar("Item")


@dataclass(frozen=True)
class Source:
    """One image, or the frames of one video.

    Attributes:
        id: what its outputs are called, a path without suffix; frames append their number.
        path: the file, None for an array.
        array: the image where there is no file.
    """

    id: str
    path: Path | None = None
    array: np.ndarray | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path) if self.path else f"array {self.id}"

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        return self.path is not None and self.path.suffix.lower() in VIDEOS

    def count(self) -> int | None:
        """Number of images; None for a video whose file does not say."""
        if not self.is_video:
            return 1
        with VideoReader(self.path) as reader:
            return len(reader) or None


def list_sources(inputs: Inputs, take: Callable[[np.ndarray, str], np.ndarray]) -> list[Source]:
    """List images and videos, in the order given; those of folders and globs in that of names.

    Ids: of a file given by itself its name; of one in a folder, or found by a glob, its path below
    that (below the part without wildcards); of an array its place among all inputs. Hidden files
    are left out, links followed.

    Args:
        inputs: paths, globs, arrays.
        take: makes an image of an array of pixels; gets what errors call it, too.

    Raises:
        InputError: if a path does not exist, a folder or a glob has no image, or there is no input.
    """
    several = inputs if isinstance(inputs, (list, tuple)) else [inputs]
    sources: list[Source] = []
    for one in several:
        if isinstance(one, np.ndarray):
            place = f"{len(sources):08d}"
            sources.append(Source(place, array=take(one, f"input {place}")))
        elif isinstance(one, (str, Path)):
            sources += _from_path(os.path.expanduser(one))
        else:
            raise InputError(
                "inputs must be paths, globs or arrays (H, W, 3) BGR uint8, "
                f"got {type(one).__name__}"
            )
    if not sources:
        raise InputError("there is no input: the list is empty")
    return sources


def check_sources(sources: Sequence[Source], out_dir: Path) -> None:
    """Raise InputError if two inputs would write one file, or nothing can be written there."""
    check_folder_target(out_dir)
    known: dict[str, Source] = {}
    for source in sources:
        former = known.setdefault(source.id, source)
        if former is not source:
            raise InputError(
                f"{source.name} and {former.name} would both be written as {source.id!r}: give "
                "the folder above them, whose structure is kept, or rename one"
            )
    for source in sources:
        video = next((known[p] for p in _parents(source.id) if p in known), None)
        if video is not None and video.is_video:
            raise InputError(
                f"{source.name} and frames of {video.name} could be written as the same file: "
                "rename one"
            )


def count_images(sources: Sequence[Source]) -> int | None:
    """Number of images and frames; None where a video does not say."""
    counts = [source.count() for source in sources]
    return None if None in counts else sum(counts)


def read_images(
    sources: Sequence[Source],
    read: Callable[[Path], np.ndarray],
    take: Callable[[np.ndarray, str], np.ndarray],
    skipped: dict[str, str] | None = None,
) -> Iterator[tuple[str, str | None, np.ndarray]]:
    """Yield id, path and image (H, W[, C]) of every image and frame.

    Args:
        sources: the inputs.
        read: reads an image file.
        take: makes an image of a frame's pixels; gets what errors call it, too.
        skipped: gets name -> error of files that cannot be read; with None the first one raises.

    Raises:
        CorruptFileError: if a file cannot be read and none may be skipped.
    """
    for source in sources:
        try:
            if source.array is not None:
                yield source.id, None, source.array
            elif source.is_video:
                with VideoReader(source.path) as reader:
                    for number, frame in enumerate(reader):
                        yield (
                            f"{source.id}/{number:06d}",
                            str(source.path),
                            take(frame, source.name),
                        )
            else:
                yield source.id, str(source.path), read(source.path)
        except CorruptFileError as error:
            if skipped is None:
                raise
            skipped[source.name] = str(error)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items; the last may be shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _from_path(text: str) -> list[Source]:
    if not text:
        raise InputError(
            "an input is an empty path; expected an image, a video, a folder or a glob"
        )
    path = Path(text)
    if path.is_dir():
        found, root = sorted(map(Path, walk_files(path))), path
    elif path.is_file():
        return [Source(path.stem, path)]
    elif glob.has_magic(text):
        found = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if p.is_file())
        fixed = Path(*_before_wildcards(path.parts))
        root = fixed if fixed != path else path.parent
        found = [p for p in found if not any(map(is_hidden, p.relative_to(root).parts))]
    else:
        raise InputError(f"{text}: no such file or folder")
    found = [p for p in found if p.suffix.lower() in (*IMAGES, *VIDEOS)]
    if not found:
        raise InputError(f"{text}: holds no image or video; expected {', '.join(IMAGES + VIDEOS)}")
    return [Source(p.relative_to(root).with_suffix("").as_posix(), p) for p in found]


def _parents(sample_id: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(sample_id).parents]


def _before_wildcards(parts: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if glob.has_magic(part):
            break
        kept.append(part)
    return kept
