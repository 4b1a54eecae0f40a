"""Read label files as one kind of values, and refuse what would be read as another one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vmt_mm.errors import InputError
from vmt_mm.utils.label_decoding import read_stored

#: Endings of files that hold labels exactly, and of lossy ones, which are listed to be refused by
#: name where there is nothing better.
LOSSLESS = (".png", ".npy", ".tif", ".tiff", ".bmp", ".gif", ".webp")
FLOATS = (".npy", ".tif", ".tiff", ".exr")
LOSSY = (".jpg", ".jpeg")

_MASK_RULES = dict(
    mask255="a mask of 8 bits in one channel, foreground above 127",
    mask01="a mask of 0 and 1 (255 = ignored) in one channel",
)
#: Share of pixels with a value that compression of a mask's source may have left by chance.
_NOISE = 0.005
#: What the values of a mask's file may be.
MASK_VALUES = tuple(_MASK_RULES)


def read_label(path: str | Path, rule: str, dtype: type, channels: int = 1) -> np.ndarray:
    """Read a label file (H, W) or (H, W, 3) of one type; palette images give their indices.

    Args:
        path: the file.
        rule: what the file must be, for the error message.
        dtype: NumPy type of its values.
        channels: 1 or 3.

    Raises:
        InputError: if the file cannot be decoded or is another kind of image.
    """
    values = with_channels(read_stored(path, rule).values, channels, path, rule)
    if values.dtype != dtype:
        raise InputError(f"{path}: expected {rule}, got {values.dtype}")
    return values


def read_classes(
    path: str | Path, num_classes: int, ignore: int | None = None, or_else: str = ""
) -> np.ndarray:
    """Read class indices (H, W), uint8; palette images give their indices.

    Args:
        path: the file, of whole numbers of any size.
        num_classes: indices are below it.
        ignore: a value that is allowed besides; None for none.
        or_else: what the error of a file with several channels says besides.

    Raises:
        InputError: if the file is not such image or holds another value.
    """
    also = "" if ignore is None else f" or {ignore}"
    rule = f"class indices 0..{num_classes - 1}{also} in one channel"
    stored = read_stored(path, rule)
    values = with_channels(stored.values, 1, path, rule + or_else)
    if values.dtype.kind not in "ui":
        raise InputError(f"{path}: expected {rule}, got {values.dtype}")
    wrong = values >= num_classes
    if values.dtype.kind == "i":
        wrong |= values < 0
    if ignore is not None:
        wrong &= values != ignore
    if wrong.any():
        raise InputError(f"{path}: expected {rule}, found {values[wrong].max()}")
    if stored.palette is not None:
        _refuse_other_greys(values, stored.palette, num_classes, path)
    return values.astype(np.uint8, copy=False)


def _refuse_other_greys(
    indices: np.ndarray, palette: np.ndarray, num_classes: int, path: str | Path
) -> None:
    """Raise InputError where the colours of a palette are greys that could be classes as well.

    Programs that make a palette of a grey picture number its colours as they come.
    """
    grey, number = palette[:, 0], np.arange(len(palette))
    is_grey = (palette == grey[:, None]).all(axis=1)
    other = is_grey & (grey != number) & (grey < num_classes) & (number < num_classes)
    if not other.any():
        return
    used = np.bincount(indices.ravel(), minlength=len(palette)) > 0
    if (other & used).any() and (is_grey & ((grey < num_classes) | (grey == 255)))[used].all():
        first = int(np.flatnonzero(other & used)[0])
        raise InputError(
            f"{path}: index {first} of the palette image has the grey {grey[first]}, and either "
            "may be the class; write the labels without a palette"
        )


def read_mask(path: str | Path, values: str = "mask255") -> np.ndarray:
    """Read a mask (H, W), uint8.

    In files of one bit, and in palette images of the indices 0 and 1, 1 is foreground whatever
    ``values`` says. The colours of a palette count where they are grey and one is above 127.

    Args:
        path: the file.
        values: 'mask255' for files in which values above 127 are foreground; 'mask01' for files in
            which 1 is foreground and 255, where a file has 1 as well, is ignored.

    Returns:
        0..255 for 'mask255'; 0, 1 and 255 for 'mask01'.

    Raises:
        InputError: if it is another kind of file, or its values are those of the other kind.
    """
    rule = _MASK_RULES[values]
    stored = read_stored(path, rule)
    mask, bits = stored.values, stored.bits
    if stored.palette is not None:
        mask, bits = _mask_of_palette(mask, stored.palette, path, rule)
    mask = with_channels(mask, 1, path, rule)
    low, high = mask.min(), mask.max()
    if not (low >= 0 and high <= 255) or (mask.dtype.kind == "f" and (mask % 1).any()):
        raise InputError(f"{path}: expected {rule}, found {mask.dtype} values {low:g}..{high:g}")
    mask = mask.astype(np.uint8, copy=False)
    if values == "mask01":
        if high > 1 and not _is_01_and_ignored(mask):
            raise InputError(
                f"{path}: expected {rule}, found {high}; leave `values` of the task at 'mask255' "
                "for masks of 0..255"
            )
        return mask
    if bits == 1:
        return mask * np.uint8(255)
    if high == 1:
        raise InputError(
            f"{path}: expected {rule}, found 0 and 1 alone, which would all be background; set "
            "values='mask01' on the task for masks of 0 and 1 (and if this is a faint map of "
            "0..255, write it as all 0)"
        )
    if _is_01_and_ignored(mask) and (mask == 1).mean() > _NOISE:
        raise InputError(
            f"{path}: expected {rule}, found 0, 1 and 255 alone, of which 1 would be background; "
            "set values='mask01' on the task for masks of 0 and 1 with 255 = ignored"
        )
    return mask


def _mask_of_palette(
    indices: np.ndarray, palette: np.ndarray, path: str | Path, rule: str
) -> tuple[np.ndarray, int]:
    """Values (H, W) of a palette image as a mask, and their bits.

    Raises:
        InputError: if its colours are not grey, and its indices are those of several objects.
    """
    used = np.unique(indices)
    grey = palette[used]
    is_grey = (grey == grey[:, :1]).all()
    if is_grey and grey.max() > 127:
        return palette[:, 0][indices], 8
    if not is_grey and not set(used.tolist()) <= {0, 1, 255}:
        raise InputError(
            f"{path}: expected {rule}, found a palette image of colours with the indices "
            f"{', '.join(map(str, used[:5].tolist()))}{', ...' if len(used) > 5 else ''}; write "
            "which of them are foreground as a mask without a palette"
        )
    return indices, 1 if indices.max() <= 1 else 8


def _is_01_and_ignored(mask: np.ndarray) -> bool:
    return bool((mask == 1).any() and not ((mask > 1) & (mask < 255)).any())


def with_channels(values: np.ndarray, channels: int, path: str | Path, rule: str) -> np.ndarray:
    """Bring values (H, W[, C]) to (H, W), or to (H, W, 3) where ``channels`` is 3.

    An alpha channel is left out where all of it is opaque. Three equal channels are one.

    Raises:
        InputError: if that is not what ``values`` are; it names ``path`` and ``rule``.
    """
    found = values.shape[2] if values.ndim == 3 else 1
    if values.ndim == 3 and found in (2, 4):
        opaque = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
        if not (values[..., -1] == opaque).all():
            raise InputError(
                f"{path}: expected {rule}, got an alpha channel that is not opaque everywhere; "
                "write the labels without one"
            )
        values = values[..., :-1]
    if values.ndim == 3 and channels == 1 and _are_equal(values):
        values = values[..., 0]
    if values.shape[2:] != ((channels,) if channels > 1 else ()) or values.size == 0:
        raise InputError(f"{path}: expected {rule}, got {values.dtype} with {found} channel(s)")
    return np.ascontiguousarray(values)


def _are_equal(values: np.ndarray) -> bool:
    """Whether all channels of values (H, W, C) are the same."""
    first, exact = values[..., 0], values.dtype.kind != "f"
    others = (values[..., channel] for channel in range(1, values.shape[2]))
    return all(np.array_equal(first, other, equal_nan=not exact) for other in others)
