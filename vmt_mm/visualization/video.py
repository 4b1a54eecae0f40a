"""Read and write videos frame by frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log

from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.utils.files import atomic_write

#: Suffix of a video file -> codec.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}


class VideoReader:
    """Iterate over the frames (H, W, 3), BGR uint8, of a video file or a camera.

    ``source`` is a file or a camera number; raises InputError if it does not exist. ``len()`` is
    the frame count in the file's header, 0 if unknown.
    """

    def __init__(self, source: str | Path) -> None:
        self.source = str(source)
        is_camera = self.source.isdecimal()
        if not is_camera and not Path(source).is_file():
            raise InputError(f"{source}: no such video")
        self._capture = cv2.VideoCapture(int(self.source) if is_camera else self.source)
        if is_camera and not self._capture.isOpened():
            raise InputError(f"camera {source} cannot be opened")

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *args: object) -> None:
        self._capture.release()

    def __len__(self) -> int:
        return max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    @property
    def fps(self) -> float:
        """Frames per second; 25 if unknown."""
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps < 1000 else 25.0

    def __iter__(self) -> Iterator[np.ndarray]:
        announced, done = len(self), 0
        while (read := self._capture.read())[0]:
            done += 1
            yield read[1]
        if not done:
            raise CorruptFileError(f"{self.source}: no frame can be decoded; expected a video")
        if done < announced:
            text = f"{self.source}: only {done} of {announced} frames could be decoded"
            print_log(text, "current", logging.WARNING)


@contextmanager
def write_video(
    path: Path, fps: float, fourcc: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a video atomically: the file appears at the end of the ``with`` block, if no error.

    Yields a function that appends an RGB frame (H, W, 3), uint8; all must have the same size.
    The suffix of ``path`` selects the container, and the codec unless ``fourcc`` is given.
    """
    if path.suffix.lower() not in _CODECS:
        raise InputError(f"{path}: the suffix of a video must be one of {', '.join(_CODECS)}")
    fourcc = fourcc or _CODECS[path.suffix.lower()]
    if len(fourcc) != 4:
        raise InputError(f"a codec must have four letters, such as mp4v or MJPG, got {fourcc!r}")
    writer, size = cv2.VideoWriter(), None
    with atomic_write(path) as partial:
        growing = partial.with_name(f"{partial.name}{path.suffix}")  # selects the container

        def add(frame: np.ndarray) -> None:
            """Append a frame; the first one opens the file."""
            nonlocal size
            if size is None:
                size = frame.shape[1::-1]
                if not writer.open(str(growing), cv2.VideoWriter_fourcc(*fourcc), fps, size):
                    raise InputError(f"cannot write a video of size {size} with codec {fourcc!r}")
            if frame.shape[1::-1] != size:
                raise InputError(f"frame of size {frame.shape[1::-1]}, but the first has {size}")
            writer.write(np.ascontiguousarray(frame[..., ::-1]))

        try:
            yield add
            writer.release()
            if size is None:
                raise InputError(f"{path}: there is no frame to write")
            os.replace(growing, partial)
        finally:
            writer.release()
            growing.unlink(missing_ok=True)
