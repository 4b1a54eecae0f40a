"""Things that stand in a room, built in a frame whose origin is the point they stand on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from . import labels
from .primitives import Box, Capsule, Frustum, Shape, Sphere, cone, cylinder
from .rays import Array, rotate
from .textures import Texture, random_paint


@dataclass(frozen=True)
class Solid:
    """A shape put somewhere: ``rotation`` (3, 3) turns its frame into the parent's."""

    shape: Shape
    rotation: Array
    centre: Array
    texture: Texture
    part: int = labels.NO_PART
    gloss: float = 0.0
    instance: int = 0
    category: int = labels.BACKGROUND
    salient: bool = False

    def to_local(self, points: Array) -> Array:
        """Return points (3, N) of the parent's frame in the shape's own frame."""
        return rotate(self.rotation.T, points - self.centre[:, None])

    def intersect(self, origin: Array, dirs: Array) -> Array:
        """Return t (N,) of the first hits of rays given in the parent's frame."""
        start = self.rotation.T @ (origin - self.centre)
        return self.shape.intersect(start, rotate(self.rotation.T, dirs))


@dataclass
class Item:
    """One object instance: its solids, the disc it needs and what can be put on top of it.

    ``radius`` is that of the footprint; ``top`` is (height, half x, half z) of a flat top; metres.
    """

    category: int
    vivid: bool
    radius: float
    height: float
    solids: list[Solid] = field(default_factory=list)
    top: tuple[float, float, float] | None = None


def yaw_matrix(angle: float) -> Array:
    """Return the rotation (3, 3) about y by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def axis_matrix(axis: Array) -> Array:
    """Return a rotation (3, 3) that turns y into ``axis`` (3,), and keeps z near z if it can."""
    y = axis / np.linalg.norm(axis)
    side = np.array([1.0, 0.0, 0.0]) if abs(y[2]) > 0.9 else np.cross(y, [0.0, 0.0, 1.0])
    x = side - (side @ y) * y
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def limb(
    start: Array, end: Array, radii: tuple[float, float], texture: Texture, part: int
) -> Solid:
    """Return a capsule from ``start`` to ``end`` (3,) with the radii it has there; metres."""
    axis = end - start
    shape = Capsule(radii[0], radii[1], float(np.linalg.norm(axis)) / 2)
    return Solid(shape, axis_matrix(axis), (start + end) / 2, texture, part)


def _upright(shape: Shape, height: float, texture: Texture, x: float = 0, z: float = 0) -> Solid:
    return Solid(shape, np.eye(3), np.array([x, height, z], dtype=float), texture)


def make_box(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a box with a footprint radius up to ``limit`` metres."""
    w, d = rng.uniform(0.5, 1.0, 2) * limit / np.sqrt(2)
    h = rng.uniform(0.4, 1.25) * (w + d) / 2
    paint = random_paint(rng, vivid, 2 * max(w, h))
    item = Item(labels.BOX, vivid, float(np.hypot(w, d)), 2 * h, top=(2 * h, w, d))
    item.solids.append(_upright(Box((w, h, d)), h, paint))
    return item


def make_ball(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a ball with a radius up to ``limit`` metres."""
    r = rng.uniform(0.5, 0.95) * limit
    item = Item(labels.BALL, vivid, r, 2 * r)
    item.solids.append(_upright(Sphere(r), r, random_paint(rng, vivid, 2 * r)))
    return item


def make_cylinder(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a cylinder that stands, or now and then lies on its side."""
    if rng.random() < 0.3:
        half = rng.uniform(0.6, 0.9) * limit
        r = rng.uniform(0.3, 0.6) * half
        paint = random_paint(rng, vivid, 2 * half)
        item = Item(labels.CYLINDER, vivid, float(np.hypot(half, r)), 2 * r)
        centre = np.array([0.0, r, 0.0])
        lying = axis_matrix(np.array([1.0, 0.0, 0.0]))
        item.solids.append(Solid(cylinder(r, half), lying, centre, paint))
        return item
    r = rng.uniform(0.45, 0.8) * limit
    half = rng.uniform(0.5, 1.5) * r
    item = Item(labels.CYLINDER, vivid, r, 2 * half)
    item.solids.append(_upright(cylinder(r, half), half, random_paint(rng, vivid, 2 * half)))
    return item


def make_cone(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a standing cone."""
    r = rng.uniform(0.5, 0.9) * limit
    half = rng.uniform(0.7, 1.5) * r
    item = Item(labels.CONE, vivid, r, 2 * half)
    item.solids.append(_upright(cone(r, half), half, random_paint(rng, vivid, 2 * half)))
    return item


def make_table(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a table: a top and four legs, all of them boxes."""
    w, d = rng.uniform(0.75, 1.0) * limit * 0.82, rng.uniform(0.6, 1.0) * limit * 0.57
    height, thick, leg = rng.uniform(0.55, 0.85), rng.uniform(0.02, 0.04), rng.uniform(0.025, 0.045)
    paint = random_paint(rng, vivid, 2 * w)
    legs = paint if rng.random() < 0.6 else random_paint(rng, vivid, 0.6)
    item = Item(labels.TABLE, vivid, float(np.hypot(w, d)), height, top=(height, w, d))
    item.solids.append(_upright(Box((w, thick, d)), height - thick, paint))
    half = (height - 2 * thick) / 2
    for x in (-1, 1):
        for z in (-1, 1):
            where = x * (w - 1.3 * leg), z * (d - 1.3 * leg)
            item.solids.append(_upright(Box((leg, half, leg)), half, legs, *where))
    return item


def make_lamp(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a lamp: a foot, a thin pole and a shade; as tall as ``limit`` lets it be."""
    height = min(rng.uniform(1.2, 1.9), limit * rng.uniform(3.5, 5.0))
    wide = height * rng.uniform(0.13, 0.18)
    paint = random_paint(rng, vivid, 2 * wide)
    # A pole is often plain metal, vivid lamp or not.
    metal = random_paint(rng, vivid and rng.random() < 0.5, 0.5)
    foot, pole = 0.02 + 0.01 * height, 0.008 + 0.011 * height
    item = Item(labels.LAMP, vivid, wide, height)
    item.solids.append(_upright(cylinder(0.75 * wide, foot / 2), foot / 2, metal))
    if rng.random() < 0.6:
        half = wide * rng.uniform(0.5, 0.9)
        shade: Shape = Frustum(wide, wide * rng.uniform(0.2, 0.8), half)
        middle = height - half
    else:
        shade = Sphere(0.85 * wide)
        middle = height - 0.85 * wide
    half = (middle - foot) / 2
    item.solids.append(_upright(cylinder(pole, half), foot + half, metal))
    item.solids.append(_upright(shade, middle, paint))
    return item


Maker = Callable[[np.random.Generator, bool, float], Item]

# Each maker with the range of footprint limits (metres) it is given on the floor.
FLOOR_ITEMS: tuple[tuple[Maker, float, float], ...] = (
    (make_box, 0.4, 0.85),
    (make_ball, 0.35, 0.65),
    (make_cylinder, 0.35, 0.7),
    (make_cone, 0.4, 0.7),
    (make_table, 0.8, 1.2),
    (make_lamp, 0.4, 0.6),
)
TOP_ITEMS: tuple[Maker, ...] = (make_box, make_ball, make_cylinder, make_cone, make_lamp)
