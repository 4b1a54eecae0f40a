"""The room itself: planes with their floorings, rugs, wallpapers and pictures."""

from dataclasses import dataclass, replace

import numpy as np

from .objects import Solid
from .primitives import Plane
from .textures import Decals, Paint, Texture, linear, random_paint


@dataclass(frozen=True)
class Room:
    """Inner size of a room in metres, centred on x = z = 0 with its floor at y = 0."""

    width: float
    length: float
    height: float


def _rectangle(
    rng: np.random.Generator, size: tuple[float, float], room: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return (x0, z0, x1, z1) of a rectangle of a size within +-room / 2; metres."""
    x, z = (rng.uniform(-0.5, 0.5) * max(r - s, 0.0) for s, r in zip(size, room, strict=True))
    return x - size[0] / 2, z - size[1] / 2, x + size[0] / 2, z + size[1] / 2


def _floor(rng: np.random.Generator, room: Room) -> Texture:
    kind = rng.choice(
        ["planks", "tiles", "noise", "checker", "plain"], p=[0.4, 0.25, 0.15, 0.1, 0.1]
    )
    wooden = kind == "planks" or rng.random() < 0.2
    hue, sat = (rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.5)) if wooden else (rng.random(), 0.1)
    value = rng.uniform(0.35, 0.85)
    first = linear(hue, sat, value)
    second = linear(hue, sat, value * rng.uniform(0.6, 0.85))
    period = {"planks": 0.2, "tiles": 0.5, "noise": 0.8, "checker": 1.0, "plain": 0.5}[kind]
    base = Paint(str(kind), first, second, period * rng.uniform(0.8, 1.3))
    patches = []
    if rng.random() < 0.5:
        size = rng.uniform(1.2, 2.6), rng.uniform(1.6, 3.2)
        spot = _rectangle(rng, size, (room.width * 0.7, room.length * 0.5))
        patches.append((spot, random_paint(rng, rng.random() < 0.6, 1.2)))
    return Decals(base, tuple(patches))


def _wall(rng: np.random.Generator, base: Texture, width: float, height: float) -> Texture:
    """Return a wall's texture with pictures; local x runs along the wall, z is its height."""
    patches: list[tuple[tuple[float, float, float, float], Texture]] = []
    count = int(rng.integers(0, 4))
    for slot in range(count):
        w, h = rng.uniform(0.4, min(1.3, width / count - 0.2)), rng.uniform(0.4, 1.0)
        x = (slot + 0.5) / count * width - width / 2
        z = rng.uniform(1.1 + h / 2, height - 0.15 - h / 2)
        rim = rng.uniform(0.02, 0.06)
        frame = Paint("plain", *[linear(rng.random(), 0.3, rng.uniform(0.1, 0.9))] * 2, 1.0)
        spot = x - w / 2, z - h / 2, x + w / 2, z + h / 2
        inner = spot[0] + rim, spot[1] + rim, spot[2] - rim, spot[3] - rim
        patches += [(spot, frame), (inner, random_paint(rng, rng.random() < 0.7, 0.8))]
    if rng.random() < 0.6:
        skirting = Paint("plain", *[linear(0.1, 0.1, rng.uniform(0.2, 0.95))] * 2, 1.0)
        patches.append(((-99.0, -1.0, 99.0, rng.uniform(0.07, 0.15)), skirting))
    return Decals(base, tuple(patches))


def _wallpaper(rng: np.random.Generator) -> Paint:
    hue, sat, value = rng.random(), rng.uniform(0.0, 0.3), rng.uniform(0.55, 0.95)
    pattern = str(rng.choice(["plain", "stripes", "noise", "tiles"], p=[0.45, 0.2, 0.25, 0.1]))
    other = linear(hue + rng.uniform(-0.1, 0.1), sat, value * rng.uniform(0.75, 0.95))
    return Paint(pattern, linear(hue, sat, value), other, rng.uniform(0.4, 1.0))


def room_solids(rng: np.random.Generator, room: Room) -> list[Solid]:
    """Return the floor, the ceiling and four walls as planes that face inward."""
    w, d, h = room.width / 2, room.length / 2, room.height
    flip = np.diag([1.0, -1.0, -1.0])
    ceiling = Paint("plain", linear(0.1, 0.05, 0.9), linear(0.1, 0.05, 0.8), 1.0)
    planes = [
        Solid(Plane(), np.eye(3), np.zeros(3), _floor(rng, room), gloss=rng.uniform(0, 0.15)),
        Solid(Plane(), flip, np.array([0.0, h, 0.0]), ceiling),
    ]
    paper = _wallpaper(rng)
    for x, z, width in ((w, 0, 2 * d), (-w, 0, 2 * d), (0, d, 2 * w), (0, -d, 2 * w)):
        normal = -np.sign(np.array([x, 0.0, z]))
        up = np.array([0.0, 1.0, 0.0])
        axes = np.stack([np.cross(normal, up), normal, up], axis=1)
        base = _wallpaper(rng) if rng.random() < 0.25 else paper
        texture = _wall(rng, base, width, h)
        planes.append(Solid(Plane(), axes, np.array([x, 0.0, z], dtype=float), texture))
    return [replace(plane, instance=number) for number, plane in enumerate(planes)]
