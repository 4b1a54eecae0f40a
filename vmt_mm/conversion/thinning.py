"""Thin binary maps to lines of one pixel."""

from __future__ import annotations

import numpy as np

# Neighbours of a pixel (row, column), clockwise from the upper one: bits 0 to 7 of its code.
_NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


def _deletable(second: bool) -> np.ndarray:
    """For each of 256 codes, whether one of the two sub-iterations takes the pixel away."""
    north, north_east, east, south_east, south, south_west, west, north_west = (
        (np.arange(256) >> bit & 1).astype(bool) for bit in range(8)
    )
    ring = (north, north_east, east, south_east, south, south_west, west, north_west)
    pieces = sum(~ring[i] & (ring[i + 1] | ring[(i + 2) % 8]) for i in (0, 2, 4, 6))
    one = sum(ring[i - 1] | ring[i] for i in (0, 2, 4, 6))
    other = sum(ring[i] | ring[i + 1] for i in (0, 2, 4, 6))
    neighbours = np.minimum(one, other)
    if second:
        side = (south | south_west | ~north_west) & west
    else:
        side = (north | north_east | ~south_east) & east
    return (pieces == 1) & (neighbours >= 2) & (neighbours <= 3) & ~side


_TABLES = (_deletable(second=False), _deletable(second=True))


def thin(mask: np.ndarray) -> np.ndarray:
    """Thin to lines of one pixel that are connected as the mask was.

    Guo and Hall, Parallel Thinning with Two-Subiteration Algorithms, Communications of the ACM
    32(3), 1989, algorithm A1: pixels at the rim go, first those of the lower right then those of
    the upper left sides, as long as their neighbours hold together without them. (That of Zhang
    and Suen erases squares of 2 x 2 and many slanted lines that are two pixels wide, just what
    boundaries between classes are.)

    Args:
        mask: (H, W), true or non-zero where something is.

    Returns:
        (H, W) bool.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    inner = padded[1:-1, 1:-1]
    height, width = inner.shape
    changed = True
    while changed:
        changed = False
        for table in _TABLES:
            code = np.zeros((height, width), np.uint8)
            for bit, (row, column) in enumerate(_NEIGHBOURS):
                shifted = padded[1 + row : 1 + row + height, 1 + column : 1 + column + width]
                code |= shifted.astype(np.uint8) << bit
            gone = inner & table[code]
            inner &= ~gone
            changed = changed or bool(gone.any())
    return inner.copy()
