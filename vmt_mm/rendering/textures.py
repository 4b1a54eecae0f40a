"""Colours and procedural textures, evaluated in the frame of the surface that bears them."""

import colorsys
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .rays import Array, rotate

# One lattice of random values serves all noise: a texture only looks at it with another offset.
_LATTICE = np.random.default_rng(20).random((16, 16, 16))
_IDENTITY = np.eye(3)

OBJECT_PATTERNS = ("plain", "stripes", "checker", "noise", "speckle", "gradient", "mixed")


class Texture(Protocol):
    """Anything that gives a surface its colour."""

    def albedo(self, points: Array) -> Array:
        """Return linear RGB (3, N) in 0..1 at local points (3, N) in metres."""
        ...


def linear(hue: float, saturation: float, value: float) -> Array:
    """Return linear RGB (3,) of a colour given as gamma-encoded HSV, each in 0..1."""
    return np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value)) ** 2.2


def random_rotation(rng: np.random.Generator) -> Array:
    """Return a uniformly distributed rotation matrix (3, 3)."""
    w, x, y, z = (q := rng.normal(size=4)) / np.sqrt((q * q).sum())
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def value_noise(points: Array) -> Array:
    """Return smooth noise (N,) in 0..1 at points (3, N), one lattice cell a unit."""
    base = np.floor(points)
    frac = points - base
    frac = frac * frac * (3 - 2 * frac)
    low = base.astype(np.int64) & 15
    high = (low + 1) & 15
    total = np.zeros(points.shape[1])
    for corner in range(8):
        use = [(corner >> axis) & 1 for axis in range(3)]
        index = tuple(high[a] if use[a] else low[a] for a in range(3))
        weight = 1.0
        for axis in range(3):
            weight = weight * (frac[axis] if use[axis] else 1 - frac[axis])
        total += weight * _LATTICE[index]
    return total


def _planks(p: Array) -> Array:
    """Boards along z, five times as long as wide, each of its own shade, with dark joints."""
    row = np.floor(p[0]).astype(np.int64)
    along = p[2] / 5 + _LATTICE[row & 15, 3, 5] * 7
    board = np.floor(along).astype(np.int64)
    shade = _LATTICE[row & 15, board & 15, 0] * 0.7
    return np.where(p[0] - row < 0.07, 1.0, shade)


def _tiles(p: Array) -> Array:
    """Square tiles in the x-z plane with light variation and joints."""
    cell = np.floor(p[[0, 2]]).astype(np.int64)
    joint = ((p[0] - cell[0]) < 0.07) | ((p[2] - cell[1]) < 0.07)
    return np.where(joint, 1.0, _LATTICE[cell[0] & 15, cell[1] & 15, 2] * 0.35)


def _weight(pattern: str, p: Array) -> Array:
    """Return how much (N,) of the second colour a pattern shows at points (3, N) in periods."""
    if pattern == "plain":
        return 0.25 * value_noise(p)
    if pattern == "stripes":
        return (np.floor(p[0] * 2) % 2).astype(float)
    if pattern == "checker":
        # A shift off the lattice keeps faces that lie at a cell border from flickering.
        return (np.floor(p * 2 + 0.137).sum(axis=0) % 2).astype(float)
    if pattern == "noise":
        return np.clip(1.8 * (0.65 * value_noise(p * 2) + 0.35 * value_noise(p * 5)) - 0.4, 0, 1)
    if pattern == "speckle":
        return np.clip(8 * (value_noise(p * 5) - 0.62), 0, 1)
    if pattern == "gradient":
        return 0.5 + 0.5 * np.sin(p[1] * 2)
    if pattern == "mixed":
        wave = np.sin(2 * np.pi * (p[0] + 0.6 * value_noise(p * 1.5)))
        return np.clip(0.5 + 1.5 * wave, 0, 1)
    return {"planks": _planks, "tiles": _tiles}[pattern](p)


@dataclass(frozen=True)
class Paint:
    """A pattern that mixes two linear RGB colours (3,); ``period`` in metres."""

    pattern: str
    first: Array
    second: Array
    period: float
    axes: Array = field(default_factory=lambda: _IDENTITY)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def albedo(self, points: Array) -> Array:
        """Return linear RGB (3, N) at local points (3, N) in metres."""
        turned = points if self.axes is _IDENTITY else rotate(self.axes, points)
        weight = _weight(self.pattern, turned / self.period + np.array(self.offset)[:, None])
        return self.first[:, None] * (1 - weight) + self.second[:, None] * weight


@dataclass(frozen=True)
class Decals:
    """A texture with rectangles of other textures painted over it in the local x-z plane."""

    base: Texture
    patches: tuple[tuple[tuple[float, float, float, float], Texture], ...]

    def albedo(self, points: Array) -> Array:
        """Return linear RGB (3, N) at local points (3, N) in metres."""
        colour = self.base.albedo(points)
        for (x0, z0, x1, z1), texture in self.patches:
            x, _, z = points
            inside = np.flatnonzero((x >= x0) & (x <= x1) & (z >= z0) & (z <= z1))
            if inside.size:
                colour[:, inside] = texture.albedo(points[:, inside])
        return colour


@dataclass(frozen=True)
class Face:
    """Skin with hair at the top and the back of a head that looks along +z; colours (3,)."""

    skin: Array
    hair: Array
    radius: float
    hairline: float

    def albedo(self, points: Array) -> Array:
        """Return linear RGB (3, N) at local points (3, N) in metres."""
        x, y, z = points / self.radius
        hair = y > self.hairline + 1.3 * z
        hair |= y > 1.0
        eyes = (np.abs(np.abs(x) - 0.38) < 0.17) & (np.abs(y - 0.15) < 0.13) & (z > 0)
        colour = np.where(hair, self.hair[:, None], self.skin[:, None])
        return np.where(eyes & ~hair, 0.03, colour)


def vivid_colour(rng: np.random.Generator) -> Array:
    """Return a saturated linear RGB colour (3,)."""
    return linear(rng.random(), rng.uniform(0.78, 1.0), rng.uniform(0.6, 1.0))


def muted_colour(rng: np.random.Generator) -> Array:
    """Return a greyish linear RGB colour (3,)."""
    return linear(rng.random(), rng.uniform(0.0, 0.17), rng.uniform(0.22, 0.9))


def random_paint(rng: np.random.Generator, vivid: bool, scale: float) -> Paint:
    """Return a paint for a thing about ``scale`` metres large, saturated iff ``vivid``."""
    pick = vivid_colour if vivid else muted_colour
    first, second = pick(rng), pick(rng)
    if vivid and rng.random() < 0.3:
        second = muted_colour(rng)
    pattern = OBJECT_PATTERNS[rng.integers(len(OBJECT_PATTERNS))]
    period = scale * rng.uniform(0.25, 0.7)
    upright = rng.random() < 0.6 or pattern == "gradient"
    axes = _IDENTITY if upright else random_rotation(rng)
    return Paint(pattern, first, second, max(period, 0.1), axes, tuple(rng.uniform(0, 16, 3)))
