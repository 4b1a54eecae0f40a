"""Read the raw values of label files, and refuse files that would be misread."""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vmt_mm.errors import InputError
from vmt_mm.utils.image_files import UNDECODABLE, find_damage, reason_of, single_page

#: Suffixes of lossless files, of floats, and of lossy files, which are listed to be refused.
LOSSLESS = (".png", ".npy", ".tif", ".tiff", ".bmp", ".gif", ".webp")
FLOATS = (".npy", ".tif", ".tiff", ".exr")
LOSSY = (".jpg", ".jpeg")

_NUMPY = b"\x93NUMPY"
_LOSSY_FORMATS = ("JPEG", "MPO", "JPEG2000", "AVIF", "HEIF")
_LOSSY_TIFFS = dict(jpeg="JPEG", tiff_jpeg="JPEG", webp="WebP")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_MASK_RULES = dict(
    mask255="a mask of 8 bits in one channel, foreground above 127",
    mask01="a mask of 0 and 1 (255 = ignored) in one channel",
)
MASK_VALUES = tuple(_MASK_RULES)
_NOISE = 0.005  # up to this share of pixels of value 1 is noise in a mask of 0..255


def read_stored(path: str | Path, rule: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a label file by its content; raise InputError with ``rule`` if lossy or corrupt.

    Returns the raw values, (H, W) or (H, W, C): RGB(A), indices of a palette image, bool for one
    bit per value; and the palette (256, 3), uint8 RGB, or None.
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
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); expected {rule}") from None
    if lossy:
        raise InputError(
            f"{path}: the file is a {lossy}, which changes values; expected {rule}: export the "
            "labels again from their source, as PNG (converting this file does not restore them)"
        )
    return values.astype(values.dtype.newbyteorder("="), copy=False), palette


def _decode(
    content: bytes, tags: dict[int, Any]
) -> tuple[np.ndarray, np.ndarray | None, str | None]:
    """Return values, palette, and the name of a lossy format."""
    if content.startswith(_NUMPY):
        values = np.load(io.BytesIO(content), allow_pickle=False)
        if values.dtype.kind not in "buif" or values.ndim not in (2, 3):
            raise ValueError(f"an array of {values.dtype} and shape {values.shape}")
        return values[..., 0] if values.shape[2:] == (1,) else values, None, None
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError:  # such as a TIFF with three float channels
        return _read_by_opencv(content), None, None
    with image:
        bits = content[24] if image.format == "PNG" else max(tags.get(_TIFF_BITS, (8,)))
        if tags and bits <= 8 and tags.get(_TIFF_PHOTOMETRIC, 0) == 0:  # Pillow inverts these
            raise ValueError("a TIFF in which 0 is white; write the labels as PNG")
        if bits > 8 and len(image.getbands()) > 1:  # Pillow keeps only 8 bits
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
    """Return values and palette of an opened image, whose file has ``bits`` per value."""
    if image.format != "TIFF" and getattr(image, "is_animated", False):
        raise ValueError("contains several pictures")
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
        raise ValueError(f"has the colour mode {image.mode}")
    return values, palette


def _read_by_opencv(content: bytes) -> np.ndarray:
    """Read values (H, W) or (H, W, C) in the order R, G, B, alpha."""
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        advice = "to read EXR, set the environment variable OPENCV_IO_ENABLE_OPENEXR=1"
        raise ValueError(f"unknown image format; {advice}")
    return values if values.ndim == 2 else values[..., [2, 1, 0, 3][: values.shape[2]]]


def with_channels(values: np.ndarray, channels: int, path: str | Path, rule: str) -> np.ndarray:
    """Convert values (H, W[, C]) to (H, W), or (H, W, 3) for 3 ``channels``, or raise InputError.

    Drops an opaque alpha channel; merges three equal channels into one.
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
    """Read a label file (H, W[, 3]) of ``dtype``; raise InputError with ``rule`` for others."""
    values = with_channels(read_stored(path, rule)[0], channels, path, rule)
    if values.dtype != dtype:
        raise InputError(f"{path}: expected {rule}, got {values.dtype}")
    return values


def read_classes(path: str | Path, num_classes: int, ignore: int | None = None) -> np.ndarray:
    """Read class indices (H, W), uint8; raise InputError for others, except ``ignore``."""
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
        raise InputError(f"{path}: expected {rule}, got {found}")
    if palette is not None:  # programs number a picture's grey values in order of appearance
        used = np.unique(values)
        grey = palette[used, 0]
        are_classes = (grey < num_classes) | (grey == 255)
        other = used[(grey != used) & (np.maximum(grey, used) < num_classes)]
        if other.size and (are_classes & (grey == palette[used].T)).all():
            raise InputError(
                f"{path}: index {other[0]} of the palette image has the grey value "
                f"{palette[other[0], 0]}, and either may be the class; save it without a palette"
            )
    return values.astype(np.uint8, copy=False)


def read_mask(path: str | Path, values: str = "mask255") -> np.ndarray:
    """Read a mask (H, W), uint8: 0..255 for values='mask255'; 0, 1 and 255 for 'mask01'.

    In 1-bit files and in palette images with only the indices 0 and 1, 1 is foreground. A grey
    palette with a value above 127 is applied. Other values raise InputError.
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
                f"{path}: expected {rule}, got a colour palette with the indices "
                f"{used[:5].tolist()}; save the foreground as a mask without a palette"
            )
        elif mask.max() <= 1:
            mask = mask > 0
    mask = with_channels(mask, 1, path, rule)
    if mask.dtype == bool:
        return mask * np.uint8(255 if values == "mask255" else 1)
    low, high = mask.min(), mask.max()
    if not 0 <= low <= high <= 255 or (mask.dtype.kind == "f" and (mask % 1).any()):
        raise InputError(f"{path}: expected {rule}, got {mask.dtype} in [{low:g}, {high:g}]")
    mask = mask.astype(np.uint8, copy=False)
    ones = mask == 1
    is_01 = bool(ones.any()) and not ((mask > 1) & (mask < 255)).any()
    if values == "mask01" and high > 1 and not is_01:
        advice = "for masks of 0..255, set the task's `values` to 'mask255', the default"
        raise InputError(f"{path}: expected {rule}, got {high}; {advice}")
    if values == "mask255" and is_01 and (high == 1 or ones.mean() > _NOISE):
        found = "0 and 1" if high == 1 else "0, 1 and 255"
        raise InputError(
            f"{path}: expected {rule}, got only {found}, so 1 would be background; for masks of "
            "0 and 1 (255 = ignored), set the task's values='mask01'"
        )
    return mask
