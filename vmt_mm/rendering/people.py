"""People made of capsules, in a walking, reaching or waving pose."""

from dataclasses import dataclass, replace

import numpy as np

from . import labels
from .objects import Item, Solid, limb
from .primitives import Capsule
from .rays import Array
from .textures import Face, Paint, Texture, linear, random_paint

# Lengths below are those of a person of this height (metres) and scale with the height.
_REFERENCE_HEIGHT = 1.75


@dataclass(frozen=True)
class _Clothes:
    head: Face
    skin: Texture
    shirt: Texture
    sleeve: Texture
    trousers: Texture
    shin: Texture
    shoe: Texture


def _clothes(rng: np.random.Generator, vivid: bool, scale: float) -> _Clothes:
    tone = linear(rng.uniform(0.045, 0.09), rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.98))
    hair = linear(rng.uniform(0.04, 0.12), rng.uniform(0.1, 0.6), rng.uniform(0.06, 0.6))
    skin = Paint("plain", tone, tone * 0.85, 0.3)
    shirt = random_paint(rng, vivid, 0.5)
    # One bright garment is enough to make a person stand out, and often all there is.
    trousers = random_paint(rng, vivid and rng.random() < 0.7, 0.5)
    shoe = random_paint(rng, vivid and rng.random() < 0.5, 0.3)
    sleeve = shirt if rng.random() < 0.55 else skin
    shin = trousers if rng.random() < 0.7 else skin
    face = Face(tone, hair, 0.105 * scale, rng.uniform(0.15, 0.7))
    return _Clothes(face, skin, shirt, sleeve, trousers, shin, shoe)


def _direction(swing: float, spread: float, side: int) -> Array:
    """Return the unit vector (3,) from straight down, swung forward, then spread outward."""
    return np.array(
        [
            side * np.sin(spread),
            -np.cos(spread) * np.cos(swing),
            np.cos(spread) * np.sin(swing),
        ]
    )


def _bend(direction: Array, towards: Array, angle: float) -> Array:
    """Turn a unit ``direction`` (3,) by ``angle`` radians towards another vector (3,)."""
    across = towards - (towards @ direction) * direction
    across /= np.linalg.norm(across)
    return np.cos(angle) * direction + np.sin(angle) * across


def _arm_pose(rng: np.random.Generator, side: int, stride: float) -> tuple[Array, Array]:
    """Return the unit directions (3,) of an upper and a lower arm."""
    forward, inward = np.array([0.0, 0.0, 1.0]), np.array([-side * 1.0, 0.0, 0.3])
    pose = rng.choice(["swing", "reach", "raise", "spread", "hip"], p=[0.4, 0.18, 0.18, 0.12, 0.12])
    if pose == "swing":
        upper = _direction(-side * stride + rng.uniform(-0.1, 0.2), rng.uniform(0.1, 0.35), side)
        return upper, _bend(upper, forward, rng.uniform(0.1, 0.9))
    if pose == "reach":
        upper = _direction(rng.uniform(0.8, 1.7), rng.uniform(0.05, 0.4), side)
        return upper, _bend(upper, np.array([0.0, 1.0, 0.0]), rng.uniform(0.1, 0.9))
    if pose == "raise":
        upper = _direction(rng.uniform(0.0, 0.4), rng.uniform(2.0, 2.8), side)
        return upper, _bend(upper, inward + [0, 1, 0], rng.uniform(0.1, 0.8))
    if pose == "spread":
        upper = _direction(rng.uniform(-0.1, 0.4), rng.uniform(1.1, 1.7), side)
        return upper, _bend(upper, forward + [0, 0.8, 0], rng.uniform(0.1, 1.2))
    upper = _direction(rng.uniform(-0.5, 0.0), rng.uniform(0.7, 0.9), side)
    return upper, _bend(upper, inward, rng.uniform(1.5, 1.7))


def _arm(
    rng: np.random.Generator, side: int, stride: float, s: float, wear: _Clothes
) -> list[Solid]:
    shoulder = np.array([side * 0.19, 1.42, 0.0]) * s
    upper, lower = _arm_pose(rng, side, stride)
    elbow = shoulder + upper * 0.29 * s
    wrist = elbow + lower * 0.25 * s
    hand = wrist + lower * 0.09 * s
    return [
        limb(shoulder, elbow, (0.062 * s, 0.048 * s), wear.shirt, labels.UPPER_ARM),
        limb(elbow, wrist, (0.048 * s, 0.036 * s), wear.sleeve, labels.LOWER_ARM),
        limb(wrist, hand, (0.036 * s, 0.046 * s), wear.skin, labels.LOWER_ARM),
    ]


def _leg(
    rng: np.random.Generator, side: int, stride: float, s: float, wear: _Clothes
) -> list[Solid]:
    hip = np.array([side * 0.095, 0.90, 0.0]) * s
    swing = side * stride + rng.uniform(-0.08, 0.08)
    spread = rng.uniform(0.02, 0.14)
    # Knees only bend backward, the trailing one more.
    flex = rng.uniform(0.05, 0.25) + max(0.0, -swing) * rng.uniform(0.2, 1.0)
    knee = hip + _direction(swing, spread, side) * 0.43 * s
    shin = _direction(swing - flex, spread * 0.5, side)
    ankle = knee + shin * 0.40 * s
    toe = ankle + _bend(shin, np.array([0.0, 0.0, 1.0]), 1.45) * 0.15 * s
    return [
        limb(hip, knee, (0.098 * s, 0.066 * s), wear.trousers, labels.UPPER_LEG),
        limb(knee, ankle, (0.066 * s, 0.048 * s), wear.shin, labels.LOWER_LEG),
        limb(ankle, toe, (0.055 * s, 0.042 * s), wear.shoe, labels.LOWER_LEG),
    ]


def _trunk(s: float, bulk: float, wear: _Clothes) -> list[Solid]:
    """Return the torso with the neck, and the head."""

    def at(x: float, y: float, z: float = 0.0) -> Array:
        return np.array([x, y, z]) * s

    solids = [limb(at(-0.15, 1.41), at(0.15, 1.41), (0.075 * s,) * 2, wear.shirt, labels.TORSO)]
    for side in (-1, 1):
        chest, waist = at(side * 0.085, 1.33), at(side * 0.07, 0.98)
        radii = (0.118 * s * bulk, 0.108 * s * bulk)
        solids.append(limb(chest, waist, radii, wear.shirt, labels.TORSO))
    hips = (0.108 * s * bulk,) * 2
    solids.append(limb(at(-0.065, 0.93), at(0.065, 0.93), hips, wear.trousers, labels.TORSO))
    solids.append(limb(at(0, 1.42), at(0, 1.55, 0.015), (0.058 * s,) * 2, wear.skin, labels.TORSO))
    head = limb(
        at(0, 1.60, 0.025), at(0, 1.645, 0.02), (0.09 * s, 0.105 * s), wear.head, labels.HEAD
    )
    return [*solids, head]


def _ends(solid: Solid) -> Array:
    """Return x, y, z and the radius (2, 4) of the balls at a limb's ends; metres."""
    shape = solid.shape
    assert isinstance(shape, Capsule)
    axis = solid.rotation[:, 1] * shape.half
    return np.array(
        [[*(solid.centre - axis), shape.bottom], [*(solid.centre + axis), shape.top]],
    )


def make_person(rng: np.random.Generator, vivid: bool) -> Item:
    """Return a person of 1.45 to 1.9 m who stands on y = 0 and faces +z."""
    s = rng.uniform(1.45, 1.9) / _REFERENCE_HEIGHT
    wear = _clothes(rng, vivid, s)
    stride = rng.uniform(-0.55, 0.55)
    solids = _trunk(s, rng.uniform(0.88, 1.15), wear)
    for side in (-1, 1):
        solids += _leg(rng, side, stride, s, wear) + _arm(rng, side, stride, s, wear)
    ends = np.concatenate([_ends(solid) for solid in solids])
    lowest = (ends[:, 1] - ends[:, 3]).min()
    height = (ends[:, 1] + ends[:, 3]).max() - lowest
    radius = (np.hypot(ends[:, 0], ends[:, 2]) + ends[:, 3]).max()
    down = np.array([0.0, lowest, 0.0])
    placed = [replace(solid, centre=solid.centre - down) for solid in solids]
    return Item(labels.PERSON, vivid, float(radius), float(height), placed)
