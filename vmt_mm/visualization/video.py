"""Read and write videos frame by frame."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import print_log

from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.utils.files import atomic_write

#: Ending of a video file -> codec.
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".avi": "MJPG", ".mov": "mp4v", ".mkv": "mp4v"}
#: Frames a second where a video does not say.
_DEFAULT_FPS = 25.0


class VideoReader:
    """The frames (H, W, 3), BGR uint8, of a video file or a camera, one at a time.

    Its length is the number of frames that the file announces, 0 where it does not.

    Args:
        source: a file, or the number of a camera.

    Raises:
        InputError: if there is no such file or camera.
        CorruptFileError: at the first frame, if none can be decoded.
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
        """Frames a second."""
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps < 1000 else _DEFAULT_FPS

    def __iter__(self) -> Iterator[np.ndarray]:
        announced, done = len(self), 0
        while True:
            whole, frame = self._capture.read()
            if not whole:
                break
            done += 1
            yield frame
        if not done:
            raise CorruptFileError(f"{self.source}: no frame can be decoded; expected a video")
        if done < announced:
            text = f"{self.source}: {done} of {announced} frames could be decoded"
            print_log(text, "current", logging.WARNING)


@contextmanager
def write_video(path: Path, fps: float, fourcc: str | None = None) -> Iterator[VideoFrames]:
    """Write a video that is whole at the end of the ``with`` block, or not there.

    Args:
        path: the file; its ending decides the container.
        fps: frames a second.
        fourcc: codec; None takes the usual one of the ending.

    Yields:
        What frames are added to.

    Raises:
        InputError: if the ending or the codec is unknown, or no frame was added.
    """
    if path.suffix.lower() not in _CODECS:
        raise InputError(f"{path}: a video ends with one of {', '.join(_CODECS)}")
    fourcc = fourcc or _CODECS[path.suffix.lower()]
    if len(fourcc) != 4:
        raise InputError(f"a codec has four letters, as mp4v or MJPG, got {fourcc!r}")
    with atomic_write(path) as partial:
        growing = partial.with_name(f"{partial.name}{path.suffix}")  # which tells the container
        frames = VideoFrames(growing, fps, fourcc)
        try:
            yield frames
            frames.release()
            if not frames.size:
                raise InputError(f"{path}: there is no frame to write")
            os.replace(growing, partial)
        finally:
            frames.release()
            growing.unlink(missing_ok=True)


class VideoFrames:
    """The frames of a video that is being written.

    Args:
        path: the file.
        fps: frames a second.
        fourcc: codec.
    """

    def __init__(self, path: Path, fps: float, fourcc: str) -> None:
        self.path, self.fps, self.fourcc = path, fps, fourcc
        #: (width, height), once there is a frame.
        self.size: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append an RGB frame (H, W, 3), uint8; raise InputError if it cannot be."""
        size = frame.shape[1::-1]
        if self._writer is None:
            code = cv2.VideoWriter_fourcc(*self.fourcc)
            self._writer = cv2.VideoWriter(str(self.path), code, self.fps, size)
            if not self._writer.isOpened():
                raise InputError(f"no video of {size} pixels can be written as {self.fourcc!r}")
            self.size = size
        if size != self.size:
            raise InputError(f"a frame has {size} pixels, the first one {self.size}")
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def release(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.release()
