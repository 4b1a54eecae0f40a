"""Read label files by their content, with values as stored, and refuse what would be misread."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vmt_mm.errors import InputError
from vmt_mm.utils.image_files import UNDECODABLE, find_damage, single_page

#: Suffixes of files that hold labels exactly, and of lossy ones, which are found to be refused.
LOSSLESS = (".png", ".npy", ".tif", ".tiff", ".bmp", ".gif", ".webp")
FLOATS = (".npy", ".tif", ".tiff", ".exr")
LOSSY = (".jpg", ".jpeg")

_NUMPY, _EXR = b"\x93NUMPY", b"v/1\x01"
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")
_LOSSY_TIFFS = dict(jpeg="JPEG", tiff_jpeg="JPEG", webp="WebP")
_TIFF_BITS = 258
_MASK_RULES = dict(
    mask255="a mask of 8 bits in one channel, foreground above 127",
    mask01="a mask of 0 and 1 (255 = ignored) in one channel",
)
MASK_VALUES = tuple(_MASK_RULES)
#: Share of pixels of value 1 that a mask of 0..255 may have by chance.
_NOISE = 0.005


def read_stored(path: str | Path, rule: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a label file: PNG, NumPy array, TIFF, EXR, BMP, GIF or lossless WebP.

    Args:
        path: the file; its suffix does not matter.
        rule: what the file must be, for the error message.

    Returns:
        Values (H, W) or (H, W, C) as stored: RGB(A), the indices of a palette image, bool where the
        file has one bit per value; and the palette (256, 3), uint8 RGB, or None.

    Raises:
        InputError: if the file cannot be decoded or its format is lossy.
    """
    try:
        content = Path(path).read_bytes()
        tags = single_page(content, str(path))
        if damage := find_damage(content):
            raise ValueError(damage)
        values, palette, lossy = _decode(content, tags)
    except InputError:
        raise
    except (*UNDECODABLE, LookupError) as error:
        message = getattr(error, "err", None) or str(error)  # OpenCV's without its source lines
        raise InputError(f"{path}: cannot be read ({message}); expected {rule}") from None
    if lossy:
        raise InputError(
            f"{path}: the file is a {lossy}, which changes values; expected {rule}: write the "
            "labels again from their source, as PNG (converting this file does not restore them)"
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False), palette


def _decode(
    content: bytes, tags: dict[int, Any]
) -> tuple[np.ndarray, np.ndarray | None, str | None]:
    """Values, palette, and the format's name if it is lossy."""
    if content.startswith(_NUMPY):
        values = np.load(io.BytesIO(content), allow_pickle=False)
        if values.dtype.kind not in "buif" or values.ndim not in (2, 3):
            raise ValueError(f"an array of {values.dtype} and shape {values.shape}")
        return values[..., 0] if values.shape[2:] == (1,) else values, None, None
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # such as a TIFF with three channels of floating-point numbers
        return _read_by_opencv(content), None, None
    with image:
        bits = content[24] if image.format == "PNG" else max(tags.get(_TIFF_BITS, (8,)))
        if bits > 8 and len(image.getbands()) > 1:  # Pillow keeps 8 bits of those
            return _read_by_opencv(content), None, None
        return *_read_by_pillow(image, bits), _lossy_format(image, content)


def _lossy_format(image: Image.Image, content: bytes) -> str | None:
    if image.format in _LOSSY_FORMATS:
        return f"{image.format} file"
    if image.format == "WEBP":
        chunk = re.search(rb"VP8[ L]", content)
        return None if chunk and chunk[0] == b"VP8L" else "lossy WebP file"
    inside = _LOSSY_TIFFS.get(image.info.get("compression", ""))
    return f"TIFF file with {inside} inside" if inside else None


def _read_by_pillow(image: Image.Image, bits: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values of an opened image that has ``bits`` per value in its file, and its palette."""
    if image.format != "TIFF" and getattr(image, "is_animated", False):
        raise ValueError("holds several pictures")
    values, palette = np.array(image), None
    if image.mode == "1":
        values = values.view(np.uint8) > 0
    elif image.mode == "P":
        colors = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette = np.concatenate([colors, np.zeros((256 - len(colors), 3), np.uint8)])
    elif image.mode == "L" and bits < 8:  # Pillow stretches 2 and 4 bits to 0..255
        values = values // np.uint8(255 // (2**bits - 1))
    elif image.mode == "I" and bits == 16 and values.min(initial=0) >= 0:  # older Pillow
        values = values.astype(np.uint16)
    elif not image.mode.startswith(("L", "RGB", "I", "F")) or image.mode == "LAB":
        raise ValueError(f"has colours of the kind {image.mode}")
    return values, palette


def _read_by_opencv(content: bytes) -> np.ndarray:
    """Values (H, W) or (H, W, C) in the order R, G, B, alpha."""
    try:
        values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        values = None
    if values is None and content.startswith(_EXR):
        raise ValueError(
            "an EXR file: OpenCV reads those if it is built with OpenEXR and the environment "
            "variable OPENCV_IO_ENABLE_OPENEXR is 1; else write .npy or TIFF files"
        )
    if values is None:
        raise ValueError("not a known kind of image file")
    return values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]


def with_channels(values: np.ndarray, channels: int, path: str | Path, rule: str) -> np.ndarray:
    """Bring values (H, W[, C]) to (H, W), or to (H, W, 3) where ``channels`` is 3.

    An opaque alpha channel is dropped; three equal channels are one. Anything else raises
    InputError, which names ``path`` and ``rule``.
    """
    found = values.shape[2] if values.ndim == 3 else 1
    if found in (2, 4):
        opaque = 1 if values.dtype.kind in "bf" else np.iinfo(values.dtype).max
        if not (values[..., -1] == opaque).all():
            raise InputError(f"{path}: expected {rule}, got an alpha channel that is not opaque")
        values = values[..., :-1]
    if values.ndim == 3 and channels == 1:
        others, floats = np.moveaxis(values[..., 1:], -1, 0), values.dtype.kind == "f"
        if all(np.array_equal(values[..., 0], other, equal_nan=floats) for other in others):
            values = values[..., 0]
    if values.shape[2:] != ((channels,) if channels > 1 else ()) or values.size == 0:
        raise InputError(f"{path}: expected {rule}, got {values.dtype} with {found} channel(s)")
    return np.ascontiguousarray(values)


def read_label(path: str | Path, rule: str, dtype: type, channels: int = 1) -> np.ndarray:
    """Read a label file (H, W), or (H, W, 3) where ``channels`` is 3, of one NumPy type.

    Raises:
        InputError: if the file is not what ``rule`` says.
    """
    values = with_channels(read_stored(path, rule)[0], channels, path, rule)
    if values.dtype != dtype:
        raise InputError(f"{path}: expected {rule}, got {values.dtype}")
    return values


def read_classes(path: str | Path, num_classes: int, ignore: int | None = None) -> np.ndarray:
    """Read class indices (H, W), uint8, below ``num_classes`` or ``ignore``; palettes do not count.

    Raises:
        InputError: if the file is another kind of image or has another value.
    """
    also = "" if ignore is None else f" or {ignore}"
    rule = f"class indices 0..{num_classes - 1}{also} in one channel"
    values, palette = read_stored(path, rule)
    if values.ndim == 3:
        rule += " (files with one colour per class need the task's `colors`)"
    values = with_channels(values, 1, path, rule)
    wrong = (values >= num_classes) | (values < 0)
    if ignore is not None:
        wrong &= values != ignore
    if values.dtype.kind == "f" or wrong.any():
        found = values.dtype if values.dtype.kind == "f" else values[wrong].max()
        raise InputError(f"{path}: expected {rule}, found {found}")
    if palette is not None:  # a program may have numbered the greys of a file of indices
        used = np.unique(values)
        grey = palette[used, 0]
        is_label = (grey == palette[used].T).all(axis=0) & ((grey < num_classes) | (grey == 255))
        if is_label.all() and ((grey < num_classes) & (grey != used)).any():
            raise InputError(
                f"{path}: the indices {used[:5].tolist()} of the palette image have the greys "
                f"{grey[:5].tolist()}, and either may be the classes; write it without a palette"
            )
    return values.astype(np.uint8, copy=False)


def read_mask(path: str | Path, values: str = "mask255") -> np.ndarray:
    """Read a mask (H, W), uint8.

    Where a file has one bit per value, and in palette images of the indices 0 and 1, 1 is
    foreground. A grey palette with a colour above 127 counts by its colours.

    Args:
        path: the file.
        values: 'mask255' for files in which values above 127 are foreground; 'mask01' for files in
            which 1 is foreground and 255 is ignored.

    Returns:
        0..255 for 'mask255'; 0, 1 and 255 for 'mask01'.

    Raises:
        InputError: if it is another kind of file, or its values are those of the other kind.
    """
    rule = _MASK_RULES[values]
    mask, palette = read_stored(path, rule)
    if palette is not None:
        used = np.unique(mask)
        is_grey = (palette[used] == palette[used, :1]).all()
        if is_grey and palette[used].max() > 127:
            mask = palette[mask, 0]
        elif not is_grey and not set(used.tolist()) <= {0, 1, 255}:
            raise InputError(
                f"{path}: expected {rule}, found a palette image of colours with the indices "
                f"{used[:5].tolist()}; write the foreground as a mask without a palette"
            )
        elif mask.max() <= 1:
            mask = mask > 0
    mask = with_channels(mask, 1, path, rule)
    if mask.dtype == bool:
        return mask * np.uint8(255 if values == "mask255" else 1)
    low, high = mask.min(), mask.max()
    if not (low >= 0 and high <= 255) or (mask.dtype.kind == "f" and (mask % 1).any()):
        raise InputError(f"{path}: expected {rule}, found {mask.dtype} values {low:g}..{high:g}")
    mask = mask.astype(np.uint8, copy=False)
    ones = mask == 1
    is_01 = bool(ones.any()) and not ((mask > 1) & (mask < 255)).any()
    if values == "mask01" and high > 1 and not is_01:
        raise InputError(
            f"{path}: expected {rule}, found {high}; leave `values` of the task at 'mask255' for "
            "masks of 0..255"
        )
    if values == "mask255" and is_01 and (high == 1 or ones.mean() > _NOISE):
        raise InputError(
            f"{path}: expected {rule}, found {'0 and 1' if high == 1 else '0, 1 and 255'} alone, "
            "of which 1 would be background; set values='mask01' on the task for masks of 0 and 1 "
            "(255 = ignored)"
        )
    return mask
