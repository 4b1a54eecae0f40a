"""Decode images; tell intact image files from damaged ones."""

from __future__ import annotations

import re
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from vmt_mm.errors import CorruptFileError

_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
#: A marker; within a scan 0xff is followed by 0x00, by a restart, or by filling.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_END, _ALONE = 0xD9, (0x01, 0xD8)
#: What decoders raise on files that are damaged or too large.
UNDECODABLE = (Image.DecompressionBombError, OSError, SyntaxError, ValueError, cv2.error)


def find_damage(content: bytes) -> str | None:
    """Say what is wrong with an image file; None where nothing is seen.

    Decoders fill what is missing of a truncated JPEG with grey, and say nothing. So the segments
    of a JPEG (ITU-T T.81, annex B) and the chunks of a PNG are followed to the end of the picture;
    what programs append to it does not matter.

    Args:
        content: the file.
    """
    if not content:
        return "the file is empty"
    if content.startswith(_JPEG) and not _ends_jpeg(content):
        return "the JPEG is truncated"
    if content.startswith(_PNG) and not _ends_png(content):
        return "the PNG is truncated"
    return None


def _ends_jpeg(content: bytes) -> bool:
    marker = _MARKER.search(content, len(_JPEG))
    while marker:
        code, position = marker[1][0], marker.end()
        if code == _JPEG_END:
            return True
        if code not in _ALONE:  # a segment with its length, which a scan's data may follow
            position += max(2, int.from_bytes(content[position : position + 2], "big"))
        marker = _MARKER.search(content, position)
    return False


def _ends_png(content: bytes) -> bool:
    position = len(_PNG)
    while position + 12 <= len(content):  # length, name, data, checksum
        if content[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return False


def _decode_color(content: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # pixels as stored, as labels are
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def decode_image(
    content: bytes, name: str, decode: Callable[[bytes], np.ndarray | None] = _decode_color
) -> np.ndarray:
    """Decode an image file.

    Args:
        content: the file.
        name: what an error calls it.
        decode: returns the image, or None if it cannot; by default BGR (H, W, 3), uint8.

    Raises:
        CorruptFileError: if the file is empty, truncated, no image, or larger than decoders take.
    """
    reason, image = find_damage(content), None
    if reason is None:
        try:
            image = decode(content)
        except CorruptFileError:
            raise
        except UNDECODABLE as error:
            message = getattr(error, "err", None) or str(error)  # OpenCV's without its source lines
            reason = f"cannot be decoded ({message})"
    if image is None:
        raise CorruptFileError(f"{name}: {reason or 'cannot be decoded'}; expected an image")
    return image
