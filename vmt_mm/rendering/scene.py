"""Random rooms: what stands where, how it is lit and from where it is seen."""

from dataclasses import dataclass, replace

import numpy as np

from . import labels
from .objects import FLOOR_ITEMS, TOP_ITEMS, Item, Solid, yaw_matrix
from .people import make_person
from .rays import Array
from .room import Room, room_solids
from .textures import linear

# Nothing is taller (metres), so that the lights hang free and nothing pierces the ceiling.
_TALLEST = 2.25


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the columns of ``rotation`` (3, 3) are its right, up and backward axes."""

    position: Array
    rotation: Array
    tan_half_fov: float


@dataclass(frozen=True)
class Light:
    """A point light at a position (3,) in metres with a linear RGB colour (3,)."""

    position: Array
    colour: Array


@dataclass(frozen=True)
class Look:
    """Ambient light from above and below (linear RGB, (3,) each) and the sensor's settings."""

    sky: Array
    ground: Array
    exposure: float
    gamma: float
    noise: float


@dataclass(frozen=True)
class Scene:
    """Everything there is to render: the first six solids are the room's planes."""

    camera: Camera
    solids: list[Solid]
    lights: list[Light]
    look: Look


def _camera(rng: np.random.Generator, room: Room) -> Camera:
    position = np.array(
        [
            rng.uniform(-0.28, 0.28) * room.width,
            rng.uniform(1.1, 1.9),
            rng.uniform(0.3, 0.9) - room.length / 2,
        ]
    )
    # Looking to the middle of the room, give or take, keeps at least two walls in view.
    yaw = np.arctan2(-position[0], room.length * 0.6) + rng.uniform(-0.5, 0.5)
    pitch = np.radians(rng.uniform(2, 8) + 9 * (position[1] - 0.9))
    roll = np.radians(rng.uniform(-4, 4))
    ahead = np.array([np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    tan_half = float(np.tan(np.radians(50 + 20 * rng.random() ** 1.5) / 2))
    return Camera(position, np.stack([right, up, -ahead], axis=1), tan_half)


class _Layout:
    """Collects items on the floor in front of the camera, without overlap."""

    def __init__(self, camera: Camera, room: Room) -> None:
        self.camera, self.room = camera, room
        self.discs: list[tuple[float, float, float]] = []
        self.solids: list[Solid] = []
        self.instance = 6

    def spot(
        self, rng: np.random.Generator, radius: float, far: float
    ) -> tuple[float, float] | None:
        """Return a free place (x, z) for a disc, or None when forty tries found none."""
        ahead = -self.camera.rotation[[0, 2], 2]
        ahead = ahead / np.hypot(*ahead)
        right = np.array([-ahead[1], ahead[0]])
        here = self.camera.position[[0, 2]]
        limits = np.array([self.room.width, self.room.length]) / 2 - radius - 0.03
        for _ in range(40):
            # The power favours the foreground, where things are large enough to be told apart.
            near = 1.4 + radius
            distance = near + (far - near) * rng.random() ** 1.45
            aside = rng.uniform(-0.92, 0.92) * self.camera.tan_half_fov * distance
            x, z = here + distance * ahead + aside * right
            inside = abs(x) <= limits[0] and abs(z) <= limits[1]
            if inside and all(np.hypot(x - a, z - b) > radius + r for a, b, r in self.discs):
                return float(x), float(z)
        return None

    def put(self, item: Item, x: float, y: float, z: float, turn: Array) -> None:
        """Add an item as a new instance at a point, turned by a rotation (3, 3)."""
        for solid in item.solids:
            self.solids.append(
                replace(
                    solid,
                    rotation=turn @ solid.rotation,
                    centre=turn @ solid.centre + np.array([x, y, z]),
                    instance=self.instance,
                    category=item.category,
                    salient=item.vivid,
                )
            )
        self.instance += 1

    def stack(self, rng: np.random.Generator, base: Item, x: float, z: float, turn: Array) -> None:
        """Put small items on the flat top of ``base``: up to three on a table, one on a box."""
        assert base.top is not None
        height, half_x, half_z = base.top
        wide = base.category == labels.TABLE
        count = int(rng.integers(0, 4)) if wide else int(rng.random() < 0.4)
        for slot in range(count):
            limit = min(half_x / count, half_z) * rng.uniform(0.65, 0.95)
            maker = TOP_ITEMS[rng.integers(len(TOP_ITEMS))]
            item = maker(rng, bool(rng.random() < 0.4), limit)
            if height + item.height > _TALLEST:
                continue
            along = ((slot + 0.5) / count * 2 - 1) * half_x
            across = rng.uniform(-1, 1) * max(half_z - limit, 0.0)
            place = turn @ np.array([along, height, across]) + np.array([x, 0.0, z])
            spin = turn @ yaw_matrix(rng.uniform(0, 2 * np.pi))
            self.put(item, *place, spin)


def _fill(rng: np.random.Generator, layout: _Layout, far: float) -> None:
    """Furnish a room with people and objects, at least one of them vivid."""
    people = int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])) if rng.random() < 0.68 else 0
    objects = int(rng.integers(5, 10))
    vivid = rng.random(people + objects) < 0.4
    # Whatever comes first always finds a place, in view and on the floor.
    vivid[0] |= not vivid.any()
    for number in range(people + objects):
        flag = bool(vivid[number])
        if number < people:
            item = make_person(rng, flag)
        else:
            maker, low, high = FLOOR_ITEMS[rng.integers(len(FLOOR_ITEMS))]
            item = maker(rng, flag, rng.uniform(low, high))
        # People further off than five metres are mere specks; everything else may be anywhere.
        spot = layout.spot(rng, item.radius, min(far, 5.0) if number < people else far)
        if spot is None:
            continue
        turn = yaw_matrix(rng.uniform(0, 2 * np.pi))
        layout.put(item, spot[0], 0.0, spot[1], turn)
        if item.top is not None:
            layout.stack(rng, item, *spot, turn)


def _lights(rng: np.random.Generator, room: Room) -> list[Light]:
    """Return one or two lights below the ceiling, higher than anything that stands there."""
    lights = []
    for strength in (1.0, 0.45)[: 1 + int(rng.random() < 0.35)]:
        x = rng.uniform(-0.42, 0.42) * room.width
        z = rng.uniform(-0.42, 0.3) * room.length
        warm = rng.uniform(-0.5, 1.0)
        colour = np.array([1 + 0.18 * warm, 1.0, 1 - 0.3 * warm])
        if rng.random() < 0.15:
            colour = colour * (0.55 + 0.45 * linear(rng.random(), 0.5, 1.0))
        position = np.array([x, room.height - rng.uniform(0.05, 0.2), z])
        lights.append(Light(position, colour * strength))
    return lights


def _look(rng: np.random.Generator) -> Look:
    level, cool = rng.uniform(0.2, 0.45), rng.uniform(-0.12, 0.12)
    return Look(
        sky=level * np.array([1 - cool, 1.0, 1 + cool]),
        ground=level * rng.uniform(0.5, 0.8) * np.array([1.05, 1.0, 0.92]),
        exposure=rng.uniform(0.17, 0.3),
        gamma=rng.uniform(2.0, 2.4),
        noise=rng.uniform(0.004, 0.02),
    )


def build_scene(rng: np.random.Generator) -> Scene:
    """Return a random scene, which depends on the state of ``rng`` alone."""
    room = Room(rng.uniform(4.2, 7.5), rng.uniform(5.0, 9.0), rng.uniform(2.5, 3.2))
    camera = _camera(rng, room)
    planes = room_solids(rng, room)
    layout = _Layout(camera, room)
    _fill(rng, layout, min(7.0, room.length))
    return Scene(camera, planes + layout.solids, _lights(rng, room), _look(rng))
