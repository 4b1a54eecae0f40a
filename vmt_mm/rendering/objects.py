"""Furniture and people in metres; the origin is the point on which they stand."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np

from vmt_mm.rendering import labels
from vmt_mm.rendering.geometry import Box, Capsule, Frustum, Solid, Sphere
from vmt_mm.rendering.textures import Array, Texture, face, linear, paint, random_paint

#: Ranges of footprint radii of classes 1 to 6 on the floor; classes of small items on top.
FLOOR_SIZES = ((0.4, 0.85), (0.35, 0.65), (0.35, 0.7), (0.4, 0.7), (0.8, 1.2), (0.4, 0.6))
TOP_ITEMS = (labels.BOX, labels.BALL, labels.CYLINDER, labels.CONE, labels.LAMP)
UP, _FORWARD = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass
class Item:
    """One object: footprint radius, solids, and ``top`` (height, half x, half z) if it is flat."""

    category: int
    vivid: bool
    radius: float
    height: float
    solids: list[Solid]
    top: tuple[float, float, float] | None = None


def axis_matrix(axis: Array) -> Array:
    """Return a rotation (3, 3) that maps y to ``axis`` (3,) and keeps z close to z if possible."""
    y = axis / np.linalg.norm(axis)
    side = np.array([1.0, 0.0, 0.0]) if abs(y[2]) > 0.9 else np.cross(y, _FORWARD)
    x = (x := side - (side @ y) * y) / np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def make_item(category: int, rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return an item of a class with a footprint radius of at most ``limit``."""
    if special := {labels.TABLE: _make_table, labels.LAMP: _make_lamp}.get(category):
        return special(rng, vivid, limit)
    turn, top = np.eye(3), None
    if category == labels.BOX:
        w, d = rng.uniform(0.5, 1.0, 2) * limit / np.sqrt(2)
        half = rng.uniform(0.4, 1.25) * (w + d) / 2
        shape, radius, size = Box(w, half, d), float(np.hypot(w, d)), 2 * max(w, half)
        top = (2 * half, w, d)
    elif category == labels.BALL:
        radius = half = rng.uniform(0.5, 0.95) * limit
        shape, size = Sphere(half), 2 * half
    elif category == labels.CYLINDER and rng.random() < 0.3:  # lying on its side
        length = rng.uniform(0.6, 0.9) * limit
        half = rng.uniform(0.3, 0.6) * length
        shape, radius, size = Frustum(half, half, length), float(np.hypot(length, half)), 2 * length
        turn = axis_matrix(np.array([1.0, 0.0, 0.0]))
    else:
        cone = category == labels.CONE
        radius = rng.uniform(*((0.5, 0.9) if cone else (0.45, 0.8))) * limit
        half = rng.uniform(0.7 if cone else 0.5, 1.5) * radius
        shape, size = Frustum(radius, 0.0 if cone else radius, half), 2 * half
    solid = Solid(shape, turn, half * UP, random_paint(rng, vivid, size))
    return Item(category, vivid, radius, 2 * half, [solid], top)


def _make_table(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a table: a top and four legs, all boxes."""
    w, d = rng.uniform(0.75, 1.0) * limit * 0.82, rng.uniform(0.6, 1.0) * limit * 0.57
    height, thick, leg = rng.uniform(0.55, 0.85), rng.uniform(0.02, 0.04), rng.uniform(0.025, 0.045)
    wood = random_paint(rng, vivid, 2 * w)
    legs = wood if rng.random() < 0.6 else random_paint(rng, vivid, 0.6)
    half = (height - 2 * thick) / 2
    solids = [Solid(Box(w, thick, d), np.eye(3), (height - thick) * UP, wood)]
    for x, z in product((1.3 * leg - w, w - 1.3 * leg), (1.3 * leg - d, d - 1.3 * leg)):
        solids.append(Solid(Box(leg, half, leg), np.eye(3), np.array([x, half, z]), legs))
    return Item(labels.TABLE, vivid, float(np.hypot(w, d)), height, solids, top=(height, w, d))


def _make_lamp(rng: np.random.Generator, vivid: bool, limit: float) -> Item:
    """Return a lamp: a foot, a thin pole and a shade; ``limit`` bounds its height."""
    height = min(rng.uniform(1.2, 1.9), limit * rng.uniform(3.5, 5.0))
    wide = height * rng.uniform(0.13, 0.18)
    cloth = random_paint(rng, vivid, 2 * wide)
    metal = random_paint(rng, vivid and rng.random() < 0.5, 0.5)
    foot, pole = 0.02 + 0.01 * height, 0.008 + 0.011 * height
    shade, half = Sphere(0.85 * wide), 0.85 * wide
    if rng.random() < 0.6:
        half = wide * rng.uniform(0.5, 0.9)
        shade = Frustum(wide, wide * rng.uniform(0.2, 0.8), half)
    middle = height - half
    half = (middle - foot) / 2
    base = Frustum(0.75 * wide, 0.75 * wide, foot / 2)
    post = Frustum(pole, pole, half)
    parts = (base, foot / 2, metal), (post, foot + half, metal), (shade, middle, cloth)
    solids = [Solid(shape, np.eye(3), y * UP, look) for shape, y, look in parts]
    return Item(labels.LAMP, vivid, wide, height, solids)


def _clothes(rng: np.random.Generator, vivid: bool, scale: float) -> dict[str, Texture]:
    tone = linear(rng.uniform(0.045, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.98))
    hair = linear(rng.uniform(0.04, 0.12), rng.uniform(0.1, 0.6), rng.uniform(0.06, 0.6))
    skin, shirt = paint("plain", (tone, tone * 0.85), 0.3), random_paint(rng, vivid, 0.5)
    trousers = random_paint(rng, vivid and rng.random() < 0.7, 0.5)
    shoe = random_paint(rng, vivid and rng.random() < 0.5, 0.3)
    wear = dict(skin=skin, shirt=shirt, trousers=trousers, shoe=shoe)
    wear["sleeve"] = shirt if rng.random() < 0.55 else skin
    wear["shin"] = trousers if rng.random() < 0.7 else skin
    return dict(wear, face=partial(face, tone, hair, 0.105 * scale, rng.uniform(0.15, 0.7)))


def _direction(swing: float, spread: float, side: int) -> Array:
    """Return the unit vector (3,) pointing down, swung forward, then spread outward."""
    down = -np.cos(spread) * np.cos(swing)
    return np.array([side * np.sin(spread), down, np.cos(spread) * np.sin(swing)])


def _bend(direction: Array, towards: Array, angle: float) -> Array:
    """Rotate a unit ``direction`` (3,) by ``angle`` radians towards another vector (3,)."""
    across = towards - (towards @ direction) * direction
    return np.cos(angle) * direction + np.sin(angle) * (across / np.linalg.norm(across))


def _arm_pose(rng: np.random.Generator, side: int, stride: float) -> tuple[Array, Array]:
    """Return the unit directions (3,) of an upper and a lower arm."""
    inward = np.array([-side * 1.0, 0.0, 0.3])
    # Probability, ranges of the upper arm's swing and spread, direction and range of the bend.
    poses = (
        (0.4, (-0.1, 0.2), (0.1, 0.35), _FORWARD, (0.1, 0.9)),  # swings with the legs
        (0.18, (0.8, 1.7), (0.05, 0.4), UP, (0.1, 0.9)),  # reaches
        (0.18, (0.0, 0.4), (2.0, 2.8), inward + UP, (0.1, 0.8)),  # is raised
        (0.12, (-0.1, 0.4), (1.1, 1.7), _FORWARD + 0.8 * UP, (0.1, 1.2)),  # is spread
        (0.12, (-0.5, 0.0), (0.7, 0.9), inward, (1.5, 1.7)),  # rests on the hip
    )
    pose = rng.choice(len(poses), p=[pose[0] for pose in poses])
    _, swing, spread, towards, bend = poses[pose]
    forward = (0.0 if pose else -side * stride) + rng.uniform(*swing)
    upper = _direction(forward, rng.uniform(*spread), side)
    return upper, _bend(upper, towards, rng.uniform(*bend))


def make_person(rng: np.random.Generator, vivid: bool) -> Item:
    """Return a person, 1.45 to 1.9 m tall, standing on y = 0 and facing +z."""
    s = rng.uniform(1.45, 1.9) / 1.75  # lengths below are for a person of 1.75 m
    wear = _clothes(rng, vivid, s)
    stride, bulk = rng.uniform(-0.55, 0.55), rng.uniform(0.88, 1.15)
    chest, hips = (0.118 * s * bulk, 0.108 * s * bulk), (0.108 * s * bulk,) * 2
    # Per limb: both ends, their radii, texture, part.
    trunk = (
        ((-0.15, 1.41, 0), (0.15, 1.41, 0), (0.075 * s,) * 2, "shirt", labels.TORSO),
        ((-0.085, 1.33, 0), (-0.07, 0.98, 0), chest, "shirt", labels.TORSO),
        ((0.085, 1.33, 0), (0.07, 0.98, 0), chest, "shirt", labels.TORSO),
        ((-0.065, 0.93, 0), (0.065, 0.93, 0), hips, "trousers", labels.TORSO),
        ((0, 1.42, 0), (0, 1.55, 0.015), (0.058 * s,) * 2, "skin", labels.TORSO),
        ((0, 1.6, 0.025), (0, 1.645, 0.02), (0.09 * s, 0.105 * s), "face", labels.HEAD),
    )
    limbs = [(np.array(start) * s, np.array(end) * s, *look) for start, end, *look in trunk]
    for side in (-1, 1):
        hip, shoulder = np.array([[side * 0.095, 0.90, 0], [side * 0.19, 1.42, 0]]) * s
        swing, spread = side * stride + rng.uniform(-0.08, 0.08), rng.uniform(0.02, 0.14)
        flex = rng.uniform(0.05, 0.25) + max(0.0, -swing) * rng.uniform(0.2, 1.0)  # of the knee
        knee = hip + _direction(swing, spread, side) * 0.43 * s
        shin = _direction(swing - flex, spread * 0.5, side)
        ankle = knee + shin * 0.40 * s
        toe = ankle + _bend(shin, _FORWARD, 1.45) * 0.15 * s
        upper, lower = _arm_pose(rng, side, stride)
        elbow = shoulder + upper * 0.29 * s
        wrist = elbow + lower * 0.25 * s
        hand = wrist + lower * 0.09 * s
        limbs += [
            (hip, knee, (0.098 * s, 0.066 * s), "trousers", labels.UPPER_LEG),
            (knee, ankle, (0.066 * s, 0.048 * s), "shin", labels.LOWER_LEG),
            (ankle, toe, (0.055 * s, 0.042 * s), "shoe", labels.LOWER_LEG),
            (shoulder, elbow, (0.062 * s, 0.048 * s), "shirt", labels.UPPER_ARM),
            (elbow, wrist, (0.048 * s, 0.036 * s), "sleeve", labels.LOWER_ARM),
            (wrist, hand, (0.036 * s, 0.046 * s), "skin", labels.LOWER_ARM),
        ]
    solids, ends = [], []
    for start, end, radii, garment, part in limbs:
        axis, centre = end - start, (start + end) / 2
        shape, turn = Capsule(*radii, float(np.linalg.norm(axis)) / 2), axis_matrix(axis)
        solids.append(Solid(shape, turn, centre, wear[garment], part))
        reach = turn[:, 1] * shape.half
        ends += [[*(centre - reach), radii[0]], [*(centre + reach), radii[1]]]
    x, y, z, radius = np.array(ends).T
    lowest = (y - radius).min()
    solids = [replace(solid, centre=solid.centre - lowest * UP) for solid in solids]
    reach, height = (np.hypot(x, z) + radius).max(), (y + radius).max() - lowest
    return Item(labels.PERSON, vivid, float(reach), float(height), solids)
