"""Procedural textures: linear RGB (3, N) in 0..1 at local points (3, N) in metres."""

import colorsys
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Texture = Callable[[Array], Array]
Rectangle = tuple[float, float, float, float]
# All noise uses one lattice of random values, with a different offset per texture.
_LATTICE = np.random.default_rng(20).random((16, 16, 16))


def rotate(matrix: Array, vectors: Array) -> Array:
    """Apply a (3, 3) matrix to (3, N) vectors; return (3, N)."""
    x, y, z = vectors
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])


def linear(hue: float, saturation: float, value: float) -> Array:
    """Convert gamma-encoded HSV, each in 0..1, to linear RGB (3,)."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) ** 2.2


def random_rotation(rng: np.random.Generator) -> Array:
    """Return a uniformly distributed rotation matrix (3, 3)."""
    w, x, y, z = (q := rng.normal(size=4)) / np.sqrt((q * q).sum())
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _noise(points: Array) -> Array:
    """Return smooth noise (N,) in 0..1 at points (3, N), with unit lattice cells."""
    frac = points - (base := np.floor(points))
    frac = frac * frac * (3 - 2 * frac)
    cells = [(base.astype(np.int64) + step) & 15 for step in (0, 1)]
    shares = 1 - frac, frac
    total = np.zeros(points.shape[1])
    for z, y, x in product((0, 1), repeat=3):
        weight = shares[x][0] * shares[y][1] * shares[z][2]
        total += weight * _LATTICE[cells[x][0], cells[y][1], cells[z][2]]
    return total


def _planks(p: Array) -> Array:
    """Boards along z, five times as long as wide, each with a separate shade, and dark joints."""
    row = np.floor(p[0]).astype(np.int64)
    board = np.floor(p[2] / 5 + _LATTICE[row & 15, 3, 5] * 7).astype(np.int64)
    return np.where(p[0] - row < 0.07, 1.0, _LATTICE[row & 15, board & 15, 0] * 0.7)


def _tiles(p: Array) -> Array:
    """Square tiles in the x-z plane with slightly varying shades, and joints."""
    cell = np.floor(p[[0, 2]]).astype(np.int64)
    joint = ((p[0] - cell[0]) < 0.07) | ((p[2] - cell[1]) < 0.07)
    return np.where(joint, 1.0, _LATTICE[cell[0] & 15, cell[1] & 15, 2] * 0.35)


#: Pattern -> weight (N,) of the second colour at points (3, N) in units of its period.
_PATTERNS: dict[str, Callable[[Array], Array]] = dict(
    plain=lambda p: 0.25 * _noise(p),
    stripes=lambda p: np.floor(p[0] * 2) % 2,
    checker=lambda p: np.floor(p * 2 + 0.137).sum(axis=0) % 2,  # avoids boundaries of cells
    noise=lambda p: np.clip(1.8 * (0.65 * _noise(p * 2) + 0.35 * _noise(p * 5)) - 0.4, 0, 1),
    speckle=lambda p: np.clip(8 * (_noise(p * 5) - 0.62), 0, 1),
    gradient=lambda p: 0.5 + 0.5 * np.sin(p[1] * 2),
    mixed=lambda p: np.clip(0.5 + 1.5 * np.sin(2 * np.pi * (p[0] + 0.6 * _noise(p * 1.5))), 0, 1),
    planks=_planks,
    tiles=_tiles,
)


def paint(pattern: str, colours: tuple[Array, Array], period: float, axes: Array | None = None,
          offset: Array | float = 0.0) -> Texture:  # fmt: skip
    """Return a pattern that mixes two linear RGB colours (3,); ``period`` is in metres."""
    first, second = (colour[:, None] for colour in colours)

    def albedo(points: Array) -> Array:
        turned = points if axes is None else rotate(axes, points)
        weight = _PATTERNS[pattern](turned / period + offset)
        return first * (1 - weight) + second * weight

    return albedo


def decals(base: Texture, patches: list[tuple[Rectangle, Texture]], points: Array) -> Array:
    """Draw rectangles (x0, z0, x1, z1) of other textures over ``base`` in the local x-z plane."""
    colour, (x, _, z) = base(points), points
    for (x0, z0, x1, z1), texture in patches:
        inside = np.flatnonzero((x >= x0) & (x <= x1) & (z >= z0) & (z <= z1))
        if inside.size:
            colour[:, inside] = texture(points[:, inside])
    return colour


def face(skin: Array, hair: Array, radius: float, hairline: float, points: Array) -> Array:
    """Texture of a head that faces +z: skin, eyes, and hair at the top and back; colours (3,)."""
    x, y, z = points / radius
    hairy = (y > hairline + 1.3 * z) | (y > 1.0)
    eyes = (np.abs(np.abs(x) - 0.38) < 0.17) & (np.abs(y - 0.15) < 0.13) & (z > 0)
    return np.where(hairy, hair[:, None], np.where(eyes, 0.03, skin[:, None]))


def _random_colour(rng: np.random.Generator, vivid: bool) -> Array:
    """Return a random linear RGB colour (3,), saturated if ``vivid``, else greyish."""
    saturation, value = ((0.78, 1.0), (0.6, 1.0)) if vivid else ((0.0, 0.17), (0.22, 0.9))
    return linear(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def random_paint(rng: np.random.Generator, vivid: bool, scale: float) -> Texture:
    """Return a random texture for an object of about ``scale`` metres, saturated if ``vivid``."""
    first, second = _random_colour(rng, vivid), _random_colour(rng, vivid)
    if vivid and rng.random() < 0.3:
        second = _random_colour(rng, False)
    pattern = tuple(_PATTERNS)[rng.integers(7)]  # the last two are for floors and walls
    period = max(scale * rng.uniform(0.25, 0.7), 0.1)
    upright = rng.random() < 0.6 or pattern == "gradient"
    axes = None if upright else random_rotation(rng)
    return paint(pattern, (first, second), period, axes, rng.uniform(0, 16, 3)[:, None])
