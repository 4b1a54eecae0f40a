"""Decode image files to the stored pixels, or refuse them.

Decoders silently fill truncated files with grey, cut 16 bits to 8, drop channels, take the first of
several pages, and multiply by alpha. Here, files are read completely or refused.
"""

import io
import re
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vmt_mm.errors import CorruptFileError

#: Exceptions of decoders on files that are corrupt or too large.
UNDECODABLE = (Image.DecompressionBombError, OSError, SyntaxError, ValueError, cv2.error)

_JPEG, _PNG, _GIF, _NPY = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Tags of a TIFF directory.
_SUBFILE, _BITS, _ORIENTATION, _SAMPLES = 254, 258, 274, 277
_THUMBNAIL_OR_MASK = 1 | 4
#: A JPEG marker; within a scan, 0xff is followed by 0x00, a restart marker, or padding.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_JPEG_END, _WITHOUT_LENGTH = 0xD9, (0x01, 0xD8)

Decode = Callable[[bytes], "np.ndarray | None"]


def reason_of(error: Exception) -> str:
    """Return a decoder error's message; for OpenCV, the short text without file and line."""
    return getattr(error, "err", None) or str(error)


def find_damage(content: bytes) -> str | None:
    """Return why content is incomplete, or None; data appended to the image is allowed."""
    if not content:
        return "the file is empty"
    if content.startswith(_JPEG) and not _ends_jpeg(content):
        return "the JPEG is truncated"
    if content.startswith(_PNG) and b"IEND" not in content:
        return "the PNG is truncated"
    return None


def _ends_jpeg(content: bytes) -> bool:
    """Whether a JPEG is complete; its segments (ITU-T T.81, annex B) may contain a thumbnail."""
    marker = _MARKER.search(content, len(_JPEG))
    while marker and marker[1][0] != _JPEG_END:
        position = marker.end()
        if marker[1][0] not in _WITHOUT_LENGTH:  # a segment, which a scan's data may follow
            position += max(2, int.from_bytes(content[position : position + 2], "big"))
        marker = _MARKER.search(content, position)
    return marker is not None


def _decode_color(content: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def decode_image(content: bytes, name: str, decode: Decode = _decode_color) -> np.ndarray:
    """Decode a file, by default to BGR (H, W, 3), or raise CorruptFileError with ``name``."""
    reason, image = find_damage(content), None
    if reason is None:
        try:
            image = decode(content)
        except CorruptFileError:
            raise
        except UNDECODABLE as error:
            reason = f"cannot be decoded ({reason_of(error)})"
    if image is None:
        raise CorruptFileError(f"{name}: {reason or 'cannot be decoded'}; expected an image")
    return image


def decode_stored(content: bytes, name: str, plain: Decode, turn: bool = False) -> np.ndarray:
    """Decode a file to its raw values, or raise CorruptFileError with ``name``.

    ``plain`` decodes the common 8-bit JPEG and PNG files; ``turn`` applies the EXIF orientation.
    Returns (H, W) or (H, W, C): blue, green, red, others; a .npy file keeps its order.
    """
    decode = plain if _is_plain(content) else lambda content: _decode_rare(content, name)
    image = decode_image(content, name, decode)
    return turn_upright(image, orientation_of(content)) if turn else image


def _is_plain(content: bytes) -> bool:
    """Whether a file is a JPEG, or a PNG of at most 8 bits without transparency or animation."""
    if not content.startswith(_PNG) or len(content) < 33:
        return content.startswith(_JPEG)
    head = content[33 : content.find(b"IDAT")]
    rare = b"tRNS" in head or b"acTL" in head
    return content[24] <= 8 and content[25] in (0, 2, 3) and not rare  # bits, kind of colour


def _decode_rare(content: bytes, name: str) -> np.ndarray | None:
    if content.startswith(_NPY):
        return np.load(io.BytesIO(content), allow_pickle=False)
    tags, frames, samples = single_page(content, name), 1, 0
    with suppress(*UNDECODABLE), Image.open(io.BytesIO(content)) as opened:
        frames, samples = getattr(opened, "n_frames", 1), len(opened.getbands())
    if frames > 1 and not tags:
        raise CorruptFileError(f"{name}: contains {frames} images; expected one image per file")
    bits = content[24] if content.startswith(_PNG) else max(tags.get(_BITS, (8,)))
    if bits <= 8 and content.startswith((_GIF, _PNG, *_TIFF)):  # cv2 multiplies by alpha
        image = _by_pillow(content)
    else:  # Pillow cuts several channels to 8 bits
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        samples = 0 if image is None or image.itemsize * 8 != bits else image[0, 0].size
    if tags.get(_SAMPLES, samples) != samples:
        found = f"{tags[_SAMPLES]} samples of {bits} bits"
        raise CorruptFileError(f"{name}: a TIFF of {found} is not supported; save it as .npy")
    return image


def _by_pillow(content: bytes) -> np.ndarray:
    """Decode 8-bit pixels; apply palettes, expand grey with alpha to three channels with alpha."""
    with Image.open(io.BytesIO(content)) as image:
        if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
            return cv2.cvtColor(np.array(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        if image.mode in ("1", "L"):
            return np.array(image.convert("L"))
        return cv2.cvtColor(np.array(image.convert("RGB")), cv2.COLOR_RGB2BGR)


def single_page(content: bytes, name: str) -> dict[int, Any]:
    """Return the tags of a TIFF's single image, ignoring thumbnails; {} for other files."""
    pages, seen, stream = [{}], set(), io.BytesIO(content)
    if not content.startswith(_TIFF):
        return {}
    with warnings.catch_warnings(), suppress(struct.error):  # decoding reports corruption
        warnings.simplefilter("ignore")
        page = ImageFileDirectory_v2(content[: 16 if content[2:4] == b"+\0" else 8])
        while page.next and page.next not in seen:
            seen.add(page.next)
            stream.seek(page.next)
            page.load(stream)
            if len(page) and not page.get(_SUBFILE, 0) & _THUMBNAIL_OR_MASK:
                pages.append(dict(page))
    if len(pages) > 2 or pages[-1].get(_ORIENTATION, 1) != 1:
        found = f"{len(pages) - 1} image(s) of orientation {pages[-1].get(_ORIENTATION, 1)}"
        raise CorruptFileError(f"{name}: contains {found}; expected one, of orientation 1")
    return pages[-1]


def orientation_of(content: bytes) -> int:
    """Return the EXIF orientation of an image file, 1..8; 1 (upright) without EXIF data."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            value = image.getexif().get(_ORIENTATION, 1)
    except UNDECODABLE:
        return 1
    return value if value in range(1, 9) else 1


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and flip an image (H, W[, C]) by its EXIF orientation."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
