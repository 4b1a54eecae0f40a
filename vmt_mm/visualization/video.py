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

#: Ending of a video file -> codec.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}


class VideoReader:
    """The frames (H, W, 3), BGR uint8, of a video file or a camera; InputError if it is missing.

    Its length is the number of frames that the file announces, or 0.
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
        """Frames per second; 25 where a video does not say."""
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
            text = f"{self.source}: {done} of {announced} frames could be decoded"
            print_log(text, "current", logging.WARNING)


@contextmanager
def write_video(
    path: Path, fps: float, fourcc: str | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a video that is complete at the end of the ``with`` block, or not there.

    Yields what appends an RGB frame (H, W, 3), uint8, all of one size. The ending of ``path``
    decides the container, and the codec unless ``fourcc`` gives one.
    """
    if path.suffix.lower() not in _CODECS:
        raise InputError(f"{path}: a video ends with one of {', '.join(_CODECS)}")
    fourcc = fourcc or _CODECS[path.suffix.lower()]
    if len(fourcc) != 4:
        raise InputError(f"a codec has four letters, as mp4v or MJPG, got {fourcc!r}")
    writer, size = cv2.VideoWriter(), None
    with atomic_write(path) as partial:
        growing = partial.with_name(f"{partial.name}{path.suffix}")  # which tells the container

        def add(frame: np.ndarray) -> None:
            """Append a frame; the first one opens the file."""
            nonlocal size
            if size is None:
                size = frame.shape[1::-1]
                if not writer.open(str(growing), cv2.VideoWriter_fourcc(*fourcc), fps, size):
                    raise InputError(f"no video of {size} pixels can be written as {fourcc!r}")
            if frame.shape[1::-1] != size:
                raise InputError(f"a frame has {frame.shape[1::-1]} pixels, the first one {size}")
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
