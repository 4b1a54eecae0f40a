"""Random rooms in metres: objects, lights and the camera."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from vmt_mm.rendering import labels
from vmt_mm.rendering.geometry import Plane, Solid
from vmt_mm.rendering.objects import FLOOR_SIZES, TOP_ITEMS, UP, Item, make_item, make_person
from vmt_mm.rendering.textures import Array, Rectangle, Texture, decals, linear, paint, random_paint

Room = tuple[float, float, float]  # width, length, height; the origin is the floor's centre
_Placed = tuple[Item, Array, Array]  # item, position (3,), rotation (3, 3)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the columns of ``rotation`` (3, 3) are its right, up and backward axes."""

    position: Array
    rotation: Array
    tan_half_fov: float


@dataclass(frozen=True)
class Scene:
    """A room with its camera, solids and lights."""

    camera: Camera
    solids: list[Solid]  # the first six are the room's planes
    lights: list[tuple[Array, Array]]  # positions and linear RGB
    sky: Array
    ground: Array
    sensor: tuple[float, float, float]  # exposure, gamma and noise


def _floor(rng: np.random.Generator, room: Room) -> Texture:
    periods = dict(planks=0.2, tiles=0.5, noise=0.8, checker=1.0, plain=0.5)
    kind = str(rng.choice(list(periods), p=[0.4, 0.25, 0.15, 0.1, 0.1]))
    wooden = kind == "planks" or rng.random() < 0.2
    hue, sat = (rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.5)) if wooden else (rng.random(), 0.1)
    value = rng.uniform(0.35, 0.85)
    colours = linear(hue, sat, value), linear(hue, sat, value * rng.uniform(0.6, 0.85))
    base = paint(kind, colours, periods[kind] * rng.uniform(0.8, 1.3))
    if rng.random() >= 0.5:
        return base
    w, d = rng.uniform(1.2, 2.6), rng.uniform(1.6, 3.2)  # of a rug
    x = rng.uniform(-0.5, 0.5) * max(room[0] * 0.7 - w, 0.0)
    z = rng.uniform(-0.5, 0.5) * max(room[1] * 0.5 - d, 0.0)
    spot = x - w / 2, z - d / 2, x + w / 2, z + d / 2
    return partial(decals, base, [(spot, random_paint(rng, rng.random() < 0.6, 1.2))])


def _wall(rng: np.random.Generator, base: Texture, width: float, height: float) -> Texture:
    """Return a wall texture with pictures; local x is along the wall, z is the height."""
    patches: list[tuple[Rectangle, Texture]] = []
    count = int(rng.integers(0, 4))
    for slot in range(count):
        w, h = rng.uniform(0.4, min(1.3, width / count - 0.2)), rng.uniform(0.4, 1.0)
        x = (slot + 0.5) / count * width - width / 2
        z = rng.uniform(1.1 + h / 2, height - 0.15 - h / 2)
        rim = rng.uniform(0.02, 0.06)
        frame = paint("plain", (linear(rng.random(), 0.3, rng.uniform(0.1, 0.9)),) * 2, 1.0)
        spot = x - w / 2, z - h / 2, x + w / 2, z + h / 2
        inner = spot[0] + rim, spot[1] + rim, spot[2] - rim, spot[3] - rim
        patches += [(spot, frame), (inner, random_paint(rng, rng.random() < 0.7, 0.8))]
    if rng.random() < 0.6:
        skirting = paint("plain", (linear(0.1, 0.1, rng.uniform(0.2, 0.95)),) * 2, 1.0)
        patches.append(((-99.0, -1.0, 99.0, rng.uniform(0.07, 0.15)), skirting))
    return partial(decals, base, patches)


def _wallpaper(rng: np.random.Generator) -> Texture:
    hue, sat, value = rng.random(), rng.uniform(0.0, 0.3), rng.uniform(0.55, 0.95)
    pattern = str(rng.choice(["plain", "stripes", "noise", "tiles"], p=[0.45, 0.2, 0.25, 0.1]))
    other = linear(hue + rng.uniform(-0.1, 0.1), sat, value * rng.uniform(0.75, 0.95))
    return paint(pattern, (linear(hue, sat, value), other), rng.uniform(0.4, 1.0))


def _planes(rng: np.random.Generator, room: Room) -> list[Solid]:
    """Return floor, ceiling and four walls as planes that face inward."""
    w, d, h = room[0] / 2, room[1] / 2, room[2]
    white = paint("plain", (linear(0.1, 0.05, 0.9), linear(0.1, 0.05, 0.8)), 1.0)
    floor = Solid(Plane(), np.eye(3), np.zeros(3), _floor(rng, room), gloss=rng.uniform(0, 0.15))
    planes = [floor, Solid(Plane(), np.diag([1.0, -1.0, -1.0]), h * UP, white)]
    paper = _wallpaper(rng)
    for x, z, width in ((w, 0.0, 2 * d), (-w, 0.0, 2 * d), (0.0, d, 2 * w), (0.0, -d, 2 * w)):
        normal = -np.sign([x, 0.0, z])
        axes = np.stack([np.cross(normal, UP), normal, UP], axis=1)
        wall = _wall(rng, _wallpaper(rng) if rng.random() < 0.25 else paper, width, h)
        planes.append(Solid(Plane(), axes, np.array([x, 0.0, z]), wall))
    return [replace(plane, instance=number) for number, plane in enumerate(planes)]


def _camera(rng: np.random.Generator, room: Room) -> Camera:
    x, height = rng.uniform(-0.28, 0.28) * room[0], rng.uniform(1.1, 1.9)
    position = np.array([x, height, rng.uniform(0.3, 0.9) - room[1] / 2])
    yaw = np.arctan2(-x, room[1] * 0.6) + rng.uniform(-0.5, 0.5)
    pitch = np.radians(rng.uniform(2, 8) + 9 * (height - 0.9))
    roll = np.radians(rng.uniform(-4, 4))
    ahead = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.cross(ahead, UP)
    up = np.cross(right := right / np.linalg.norm(right), ahead)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    tan_half = float(np.tan(np.radians(50 + 20 * rng.random() ** 1.5) / 2))
    return Camera(position, np.stack([right, up, -ahead], axis=1), tan_half)


def _random_yaw(rng: np.random.Generator) -> Array:
    """Return a rotation (3, 3) about y."""
    c, s = np.cos(angle := rng.uniform(0, 2 * np.pi)), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def _spot(
    rng: np.random.Generator, camera: Camera, room: Room, radius: float, far: float
) -> Array | None:
    """Return a visible floor point (3,) for a disc of ``radius``; None after 40 failed tries."""
    ahead = -camera.rotation[[0, 2], 2] / np.hypot(*camera.rotation[[0, 2], 2])
    right, near = np.array([-ahead[1], ahead[0]]), 1.4 + radius
    limits = np.array(room[:2]) / 2 - radius - 0.03
    for _ in range(40):
        # the exponent favours the foreground, where objects are large
        distance = near + (far - near) * rng.random() ** 1.45
        aside = rng.uniform(-0.92, 0.92) * camera.tan_half_fov * distance
        x, z = camera.position[[0, 2]] + distance * ahead + aside * right
        if abs(x) <= limits[0] and abs(z) <= limits[1]:
            return np.array([x, 0.0, z])
    return None


def _on_top(rng: np.random.Generator, base: Item, below: Array, turn: Array) -> list[_Placed]:
    """Return small items on top of ``base``: up to three on a table, up to one on a box."""
    placed, (height, half_x, half_z) = [], base.top or (0, 0, 0)
    wide = base.category == labels.TABLE
    count = int(rng.integers(0, 4) if wide else rng.random() < 0.4)
    for slot in range(count):
        limit = min(half_x / count, half_z) * rng.uniform(0.65, 0.95)
        category = TOP_ITEMS[rng.integers(len(TOP_ITEMS))]
        item = make_item(category, rng, bool(rng.random() < 0.4), limit)
        if height + item.height <= 2.25:  # keep clear of the lights
            along = ((slot + 0.5) / count * 2 - 1) * half_x
            across = rng.uniform(-1, 1) * max(half_z - limit, 0.0)
            place = turn @ np.array([along, height, across]) + below
            placed.append((item, place, turn @ _random_yaw(rng)))
    return placed


def _furniture(rng: np.random.Generator, camera: Camera, room: Room) -> list[_Placed]:
    """Return people and objects, which may overlap; at least one is made vivid."""
    people = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])) if rng.random() < 0.68 else 0
    vivid = rng.random(people + int(rng.integers(5, 10))) < 0.4
    vivid[0] |= not vivid.any()
    placed, far = [], min(7.0, room[1])
    for number, flag in enumerate(vivid.tolist()):
        if number < people:
            item = make_person(rng, flag)
        else:
            category = 1 + rng.integers(len(FLOOR_SIZES))
            item = make_item(category, rng, flag, rng.uniform(*FLOOR_SIZES[category - 1]))
        # people beyond 5 m would be too small
        place = _spot(rng, camera, room, item.radius, min(far, 5.0) if number < people else far)
        if place is not None:
            turn = _random_yaw(rng)
            above = _on_top(rng, item, place, turn) if item.top else []
            placed += [(item, place, turn), *above]
    return placed


def build_scene(rng: np.random.Generator) -> Scene:
    """Return a random scene that depends only on the state of ``rng``."""
    room = rng.uniform(4.2, 7.5), rng.uniform(5.0, 9.0), rng.uniform(2.5, 3.2)
    camera, solids = _camera(rng, room), _planes(rng, room)
    for instance, (item, place, turn) in enumerate(_furniture(rng, camera, room), start=6):
        what = dict(instance=instance, category=item.category, salient=item.vivid)
        for solid in item.solids:
            where = dict(rotation=turn @ solid.rotation, centre=turn @ solid.centre + place)
            solids.append(replace(solid, **where, **what))
    lights = []
    for strength in (1.0, 0.45)[: 1 + int(rng.random() < 0.35)]:
        x, z = rng.uniform(-0.42, 0.42) * room[0], rng.uniform(-0.42, 0.3) * room[1]
        warm = rng.uniform(-0.5, 1.0)
        colour = np.array([1 + 0.18 * warm, 1.0, 1 - 0.3 * warm])
        if rng.random() < 0.15:
            colour *= 0.55 + 0.45 * linear(rng.random(), 0.5, 1.0)
        lights.append((np.array([x, room[2] - rng.uniform(0.05, 0.2), z]), colour * strength))
    level, cool = rng.uniform(0.2, 0.45), rng.uniform(-0.12, 0.12)
    sky = level * np.array([1 - cool, 1.0, 1 + cool])
    ground = level * rng.uniform(0.5, 0.8) * np.array([1.05, 1.0, 0.92])
    sensor = rng.uniform(0.17, 0.3), rng.uniform(2.0, 2.4), rng.uniform(0.004, 0.02)
    return Scene(camera, solids, lights, sky, ground, sensor)
