"""Decode image files to the pixels that they store, and say what would be lost.

Decoders fit what they find to what they are asked for, without a word: they cut 16 bits to 8, drop
a channel, take the first of several pages, multiply by alpha. Here all of a file is read, or it is
refused.
"""

from __future__ import annotations

import io
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
from vmt_mm.utils.images import UNDECODABLE, decode_image

_JPEG, _PNG, _GIF, _NPY = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"GIF8", b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: Tags of a TIFF directory.
_NEW_SUBFILE, _WIDTH, _BITS, _PHOTOMETRIC = 254, 256, 258, 262
_ORIENTATION, _SAMPLES, _EXTRA = 274, 277, 338
_OF_PAGE = (_WIDTH, _BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _EXTRA)
_REDUCED, _MASK, _UNASSOCIATED, _PALETTE, _CMYK = 1, 4, 2, 3, 5

Decode = Callable[[bytes], "np.ndarray | None"]


def is_plain(content: bytes) -> bool:
    """Whether a file is a JPEG, or a PNG of at most 8 bits without transparency or animation.

    Of these every decoder makes the same 8-bit image; nearly all photographs are such files.
    """
    if content.startswith(_JPEG):
        return True
    if not content.startswith(_PNG) or len(content) < 33:
        return False
    depth, color = content[24], content[25]
    head = content[33 : content.find(b"IDAT")]
    return depth <= 8 and color in (0, 2, 3) and b"tRNS" not in head and b"acTL" not in head


def decode_stored(content: bytes, name: str, plain: Decode, turn: bool = False) -> np.ndarray:
    """Decode a file to the values that it stores.

    Args:
        content: the file.
        name: what an error calls it.
        plain: decodes a file that :func:`is_plain`, without a look at its orientation.
        turn: turn the image as its EXIF orientation says.

    Returns:
        (H, W) or (H, W, C): channels as OpenCV orders them, blue, green, red, then others; those of
        a .npy file as they are. The type is the file's.

    Raises:
        CorruptFileError: if the file is empty, truncated, no image, or several, or if no decoder
            reads all that it holds.
    """
    if is_plain(content):
        image = decode_image(content, name, plain)
    else:
        _refuse_several(content, name)
        image = decode_image(content, name, lambda content: _decode_rare(content, name))
    return turn_upright(image, orientation_of(content)) if turn else image


def _refuse_several(content: bytes, name: str) -> None:
    animated = (content.startswith(_PNG) and b"acTL" in content[33 : content.find(b"IDAT")]) or (
        content[8:16] == b"WEBPVP8X" and len(content) > 20 and content[20] & 2
    )
    if content.startswith(_GIF):
        try:
            with Image.open(io.BytesIO(content)) as image:
                animated = image.n_frames > 1
        except (OSError, SyntaxError, ValueError):
            return  # decoding says what is wrong
    if animated:
        raise CorruptFileError(f"{name}: is animated; expected one image: save its frames as files")


def _decode_rare(content: bytes, name: str) -> np.ndarray | None:
    if content.startswith(_NPY):
        return _decode_npy(content, name)
    if content.startswith(_TIFF):
        return _decode_tiff(content, name)
    if content.startswith(_GIF) or (content.startswith(_PNG) and content[24:25] <= b"\x08"):
        return _by_pillow(content)
    return _by_cv2(content)


def _by_cv2(content: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def _by_pillow(content: bytes) -> np.ndarray:
    """Decode 8-bit pixels; palettes are looked up, grey with alpha gets three equal channels."""
    with Image.open(io.BytesIO(content)) as image:
        if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
            return cv2.cvtColor(np.array(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
        if image.mode in ("1", "L"):
            return np.array(image.convert("L"))
        return cv2.cvtColor(np.array(image.convert("RGB")), cv2.COLOR_RGB2BGR)


def _decode_npy(content: bytes, name: str) -> np.ndarray:
    values = np.load(io.BytesIO(content), allow_pickle=False)
    if values.ndim not in (2, 3) or not values.size:
        raise CorruptFileError(f"{name}: expected an array (H, W) or (H, W, C), got {values.shape}")
    return values


def _decode_tiff(content: bytes, name: str) -> np.ndarray | None:
    page = single_page(content, name)
    if page is None:
        return None
    samples, bits = page.get(_SAMPLES, 1), max(_several(page.get(_BITS, 1)))
    if bits <= 8 and _UNASSOCIATED in _several(page.get(_EXTRA, 0)):
        image = _by_pillow(content)  # cv2 multiplies by alpha
    elif bits <= 8 and page.get(_PHOTOMETRIC) == _CMYK:
        image = _by_pillow(content)
        samples = 3
    else:
        image = _by_cv2(content)
    channels = image.shape[2] if image is not None and image.ndim == 3 else 1
    if page.get(_PHOTOMETRIC) == _PALETTE or (samples == 2 and channels == 4):  # grey with alpha
        samples = channels
    if image is None or channels != samples or (bits > 8 and image.itemsize * 8 != bits):
        raise CorruptFileError(
            f"{name}: a TIFF with {samples} samples of {bits} bits, which cannot be read whole; "
            "save it as .npy, an array (H, W, C)"
        )
    return image


def single_page(content: bytes, name: str) -> dict[int, Any] | None:
    """Tags of the one image that a TIFF holds; None where none is found, or it is not a TIFF.

    Args:
        content: the file.
        name: what an error calls it.

    Raises:
        CorruptFileError: if it holds several, or one that decoders turn.
    """
    pages = _tiff_pages(content) if content.startswith(_TIFF) else []
    if len(pages) > 1:
        raise CorruptFileError(
            f"{name}: holds {len(pages)} images; expected one: save them as files"
        )
    if pages and pages[0].get(_ORIENTATION, 1) != 1:
        raise CorruptFileError(
            f"{name}: a TIFF of orientation {pages[0][_ORIENTATION]}, which decoders turn in "
            "different ways; save it in the usual orientation, 1"
        )
    return pages[0] if pages else None


def _tiff_pages(content: bytes) -> list[dict[int, Any]]:
    """Tags of a TIFF's images at full size: not of its thumbnails and masks."""
    pages, stream, seen = [], io.BytesIO(content), set()
    with warnings.catch_warnings(), suppress(struct.error):  # decoding says what is damaged
        warnings.simplefilter("ignore")
        directory = ImageFileDirectory_v2(content[: 16 if content[2:4] == b"+\0" else 8])
        while directory.next and directory.next not in seen:
            seen.add(directory.next)
            stream.seek(directory.next)
            directory.load(stream)
            page = {tag: directory[tag] for tag in _OF_PAGE if tag in directory}
            if page and not directory.get(_NEW_SUBFILE, 0) & (_REDUCED | _MASK):
                pages.append(page)
    return pages


def _several(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def orientation_of(content: bytes) -> int:
    """EXIF orientation of an image file, 1..8; 1, upright as stored, where it says nothing."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            value = image.getexif().get(_ORIENTATION, 1)
    except UNDECODABLE:
        return 1
    return value if value in range(1, 9) else 1


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror an image (H, W[, C]) as its EXIF orientation says."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
