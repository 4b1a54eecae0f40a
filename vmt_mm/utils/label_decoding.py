"""Decode label files by what they contain, whatever their names say; values are as stored."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vmt_mm.errors import InputError
from vmt_mm.utils.image_files import UNDECODABLE, find_damage, single_page

_PNG, _NUMPY, _EXR = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY", b"v/1\x01"
#: How files of lossy formats begin; what stands at bytes 4..12 of the last is the kind.
_LOSSY_FORMATS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
}
_LOSSY_BRANDS = {b"ftypavif": "AVIF", b"ftypheic": "HEIC", b"ftypmif1": "HEIF"}
#: Bytes of a PNG's signature and header, and where the header says bits and type of colour.
_PNG_HEADER, _PNG_BITS, _PNG_COLOR = 33, 24, 25
#: Pillow's kinds of pictures whose values are numbers or RGB: "L", "LA", "RGB(A)", "I(;16)", "F".
_MODES = ("L", "RGB", "I", "F")
_TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_CHANNELS = 258, 259, 262, 277
_WHITE_IS_ZERO = 0
_TIFF_LOSSY = {6: "JPEG", 7: "JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
               34887: "LERC", 34892: "lossy JPEG", 50001: "WebP", 50002: "JPEG XL"}  # fmt: skip


class _LossyError(ValueError):
    """A file whose values are not those that were drawn; says of which format."""


@dataclass(frozen=True)
class Stored:
    """What a label file holds.

    Attributes:
        values: (H, W) or (H, W, C), RGB(A) where C is 3 or 4; integers or floating-point numbers
            as they are stored, of a palette image its indices, of true and false 1 and 0.
        palette: (256, 3) uint8, the RGB colours of a palette image's indices; else None.
        bits: of each value in the file.
    """

    values: np.ndarray
    palette: np.ndarray | None = None
    bits: int = 8


def read_stored(path: str | Path, rule: str) -> Stored:
    """Read a label file: PNG, NumPy array, TIFF, EXR, BMP, GIF or lossless WebP.

    Args:
        path: the file; what it is called does not matter.
        rule: what the file must be, for the error message.

    Raises:
        InputError: if it cannot be decoded, or is of a lossy format, whose values near edges are
            not those that were drawn.
    """
    try:
        content = Path(path).read_bytes()
        _refuse_lossy(content)
        single_page(content, str(path))
        if damage := find_damage(content):
            raise ValueError(damage)
        if content.startswith(_PNG):
            return _read_png(content)
        if content.startswith(_NUMPY):
            return _read_numpy(content)
        return Stored(_read_exr(content)) if content.startswith(_EXR) else _read_other(content)
    except _LossyError as error:
        raise InputError(
            f"{path}: the file is a {error}, which changes values; expected {rule}, exactly as they"
            " were drawn: write the labels anew from their source, as PNG (a conversion of this "
            "file does not bring them back)"
        ) from None
    except InputError:
        raise
    except UNDECODABLE as error:
        message = getattr(error, "err", None) or str(error)  # OpenCV's without its source lines
        raise InputError(f"{path}: cannot be read ({message}); expected {rule}") from None


def _refuse_lossy(content: bytes) -> None:
    """Raise _LossyError for a file that begins as those of a lossy format do."""
    for magic, name in _LOSSY_FORMATS.items():
        if content.startswith(magic):
            raise _LossyError(f"{name} file")
    if content[4:12] in _LOSSY_BRANDS:
        raise _LossyError(f"{_LOSSY_BRANDS[content[4:12]]} file")
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP" and not _is_lossless_webp(content):
        raise _LossyError("lossy WebP file")


def _is_lossless_webp(content: bytes) -> bool:
    """Follow the chunks of a WebP file to the one that holds the picture."""
    position = 12
    while position + 8 <= len(content):
        kind, size = content[position : position + 4], content[position + 4 : position + 8]
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8L"
        length = int.from_bytes(size, "little")
        position += 8 + length + length % 2
    return True  # decoding it says what is wrong


def _read_png(content: bytes) -> Stored:
    if len(content) < _PNG_HEADER:
        raise ValueError("the PNG is truncated")
    bits, color = content[_PNG_BITS], content[_PNG_COLOR]
    if bits == 16 and color:  # of which Pillow keeps 8
        return Stored(_read_by_opencv(content), bits=bits)
    with Image.open(io.BytesIO(content)) as image:
        return _of_pillow(image, bits)


def _read_numpy(content: bytes) -> Stored:
    values = np.load(io.BytesIO(content), allow_pickle=False)
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3):
        raise ValueError(f"an array of {values.dtype} and shape {values.shape}")
    if values.shape[2:] == (1,):
        values = values[..., 0]
    if values.dtype.kind == "b":
        return Stored(values.view(np.uint8), bits=1)
    return Stored(values.astype(values.dtype.newbyteorder("="), copy=False), None,
                  8 * values.dtype.itemsize)  # fmt: skip


def _read_exr(content: bytes) -> np.ndarray:
    try:
        return _read_by_opencv(content)
    except (ValueError, cv2.error):
        raise ValueError(
            "an EXR file: OpenCV reads those where it is built with OpenEXR and the environment "
            "variable OPENCV_IO_ENABLE_OPENEXR is 1; else write .npy or TIFF files"
        ) from None


def _read_other(content: bytes) -> Stored:
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        values = _read_by_opencv(content)  # TIFF with three channels of floating-point numbers
        return Stored(values, bits=8 * values.dtype.itemsize)
    with image:
        tags = getattr(image, "tag_v2", {})
        if tags.get(_TIFF_COMPRESSION) in _TIFF_LOSSY:
            raise _LossyError(f"TIFF file with {_TIFF_LOSSY[tags[_TIFF_COMPRESSION]]} inside")
        bits = max(tags.get(_TIFF_BITS, (8,)))
        if bits <= 8 and tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts those
            raise ValueError("a TIFF in which 0 is white; write the labels as PNG")
        if bits > 8 and tags.get(_TIFF_CHANNELS, 1) > 1:  # of which Pillow keeps 8
            return Stored(_read_by_opencv(content), bits=bits)
        return _of_pillow(image, bits)


def _of_pillow(image: Image.Image, bits: int) -> Stored:
    """Values of an opened image, with ``bits`` each in the file."""
    if image.format != "TIFF" and getattr(image, "is_animated", False):
        raise ValueError("holds several pictures")
    values = np.array(image)
    if image.mode == "1":
        return Stored((values.view(np.uint8) > 0).view(np.uint8), bits=1)  # true is 255 there
    if image.mode == "P":
        palette = np.zeros((256, 3), np.uint8)
        colors = np.uint8(image.getpalette("RGB")).reshape(-1, 3)
        palette[: len(colors)] = colors
        return Stored(values, palette, bits)
    if image.mode == "L" and bits < 8:  # Pillow stretches 2 and 4 bits to 0..255
        return Stored(values // np.uint8(255 // (2**bits - 1)), None, bits)
    if not image.mode.startswith(_MODES) or image.mode == "LAB":
        raise ValueError(f"colours of the kind {image.mode}")
    if image.mode == "I" and bits == 16 and values.min(initial=0) >= 0:
        values = values.astype(np.uint16)  # as older versions of Pillow read 16 bits
    return Stored(values, None, bits)


def _read_by_opencv(content: bytes) -> np.ndarray:
    """Values (H, W) or (H, W, C) in the order R, G, B, alpha."""
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("not a kind of file that is known")
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return values
