"""Primitive shapes and ray intersection.

Each shape is centred on the origin of its local frame, symmetric about y, within the radius
``bound``. ``intersect(origin, dirs)`` returns t (N,) of the first hits of the rays origin (3,) + t
* dirs (3, N) from outside, inf for a miss; ``normal(points)``, outward unit normals (3, N). Vectors
are (3, N) in metres. No product uses BLAS, whose rounding depends on the number of threads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmt_mm.rendering import labels
from vmt_mm.rendering.textures import Array, Texture, rotate

_T_MIN, _TINY = 1e-6, 1e-12  # hits closer than _T_MIN are the ray's origin


def dot(a: Array, b: Array) -> Array:
    """Return dot products (N,) of (3, N) or (3, 1) vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _nonzero(values: Array) -> Array:
    """Replace values near zero to avoid division by zero."""
    return np.where(np.abs(values) < _TINY, _TINY, values)


def _roots(a: Array, half_b: Array, c: Array | float) -> tuple[Array, Array]:
    """Return both roots (N,) of a t^2 + 2 half_b t + c = 0, NaN if there are none."""
    disc, a = half_b * half_b - a * c, _nonzero(a)
    root = np.sqrt(np.where(disc >= 0, disc, np.nan))
    return (-half_b - root) / a, (-half_b + root) / a


def _hit_side(origin: Array, dirs: Array, mid: float, slope: float, *ends: float) -> Array:
    """Return first hits (N,) of the side x^2 + z^2 = (mid + slope y)^2, ends[0] <= y <= ends[1]."""
    (ox, oy, oz), (dx, dy, dz) = origin, dirs
    reach = mid + slope * oy
    a = dx * dx + dz * dz - slope * slope * dy * dy
    half_b = ox * dx + oz * dz - slope * reach * dy
    best = np.full(dx.shape, np.inf)
    for t in _roots(a, half_b, ox * ox + oz * oz - reach * reach):
        y = oy + t * dy
        best = np.where((t > _T_MIN) & (y >= ends[0]) & (y <= ends[1]) & (t < best), t, best)
    return best


class Plane:
    """The plane y = 0, visible only from y > 0."""

    bound = np.inf

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        t = -origin[1] / _nonzero(dirs[1])
        return np.where((dirs[1] < 0) & (t > _T_MIN), t, np.inf)

    def normal(self, points: Array) -> Array:  # noqa: D102
        return np.repeat([[0.0], [1.0], [0.0]], points.shape[1], axis=1)


class Box:
    """A cuboid with given half extents along x, y and z."""

    def __init__(self, *half: float) -> None:
        self.half, self.bound = np.array(half)[:, None], float(np.linalg.norm(half))

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        inverse, start = 1.0 / _nonzero(dirs), origin[:, None]
        one, two = (-self.half - start) * inverse, (self.half - start) * inverse
        near, far = np.minimum(one, two).max(axis=0), np.maximum(one, two).min(axis=0)
        return np.where((near <= far) & (near > _T_MIN), near, np.inf)

    def normal(self, points: Array) -> Array:  # noqa: D102
        axis = np.argmin(np.abs(np.abs(points) - self.half), axis=0)
        is_axis = np.arange(3)[:, None] == axis
        return np.where(is_axis, np.where(points < 0, -1.0, 1.0), 0.0)


class Sphere:
    """A ball."""

    def __init__(self, radius: float) -> None:
        self.bound = radius

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        away = float(origin @ origin) - self.bound**2
        near = _roots(dot(dirs, dirs), dot(origin, dirs), away)[0]
        return np.where(near > _T_MIN, near, np.inf)

    def normal(self, points: Array) -> Array:  # noqa: D102
        return points / np.sqrt(dot(points, points))


class Frustum:
    """A cylinder, cone or truncated cone with the given radii at y = -half and y = +half."""

    def __init__(self, bottom: float, top: float, half: float) -> None:
        self.bottom, self.top, self.half = bottom, top, half
        self.bound = float(np.hypot(half, max(bottom, top)))
        # radius at y = 0, slope, heights of the rims
        self.side = (bottom + top) / 2, (top - bottom) / (2 * half), -half, half

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        best = _hit_side(origin, dirs, *self.side)
        for height, radius in ((-self.half, self.bottom), (self.half, self.top)):
            start = origin - np.array([0, height, 0])
            best = np.minimum(best, self._hit_end(start, dirs, radius))
        return best

    def _hit_end(self, start: Array, dirs: Array, radius: float) -> Array:
        t = -start[1] / _nonzero(dirs[1])
        x, z = start[0] + t * dirs[0], start[2] + t * dirs[2]
        return np.where((x * x + z * z <= radius * radius) & (t > _T_MIN), t, np.inf)

    def normal(self, points: Array) -> Array:  # noqa: D102
        (x, y, z), (mid, slope, *_) = points, self.side
        rho = np.hypot(x, z)
        x, z = (part / np.maximum(rho, _TINY) for part in (x, z))
        cosine = 1 / np.sqrt(1 + slope * slope)
        cap = np.abs(np.abs(y) - self.half) < np.abs(rho - (mid + slope * y)) * cosine
        up = np.where(cap, np.sign(y), -slope * cosine)
        return np.stack([np.where(cap, 0.0, x * cosine), up, np.where(cap, 0.0, z * cosine)])


class Capsule(Frustum):
    """Convex hull of balls at y = -half and y = +half, with radii that may differ."""

    def __init__(self, bottom: float, top: float, half: float) -> None:
        super().__init__(bottom, top, half)
        self.bound = half + max(bottom, top)
        self._sine = sine = (bottom - top) / (2 * half)
        self._cosine = cosine = np.sqrt(1 - sine * sine)
        low, high = -half + bottom * sine, half + top * sine
        self.side = (bottom - sine * half) / cosine, -sine / cosine, low, high

    def _hit_end(self, start: Array, dirs: Array, radius: float) -> Array:
        return Sphere(radius).intersect(start, dirs)

    def normal(self, points: Array) -> Array:  # noqa: D102
        (x, y, z), (*_, low, high) = points, self.side
        x, z = (part / np.maximum(np.hypot(x, z), _TINY) for part in (x, z))
        side = np.stack([x * self._cosine, np.full_like(x, self._sine), z * self._cosine])
        ball = points.copy()
        ball[1] -= np.where(y > (low + high) / 2, self.half, -self.half)
        ball /= np.maximum(np.sqrt(dot(ball, ball)), _TINY)
        return np.where((y >= low) & (y <= high), side, ball)


@dataclass(frozen=True)
class Solid:
    """A shape placed in a scene: ``rotation`` (3, 3) maps its local frame to the parent's."""

    shape: Plane | Box | Sphere | Frustum | Capsule
    rotation: Array
    centre: Array
    texture: Texture
    part: int = labels.NO_PART
    gloss: float = 0.0
    instance: int = 0
    category: int = labels.BACKGROUND
    salient: bool = False

    def intersect(self, origin: Array, dirs: Array) -> Array:
        """Return t (N,) of the first hits of rays in the parent's frame."""
        turn = self.rotation.T
        return self.shape.intersect(turn @ (origin - self.centre), rotate(turn, dirs))


def nearest(solids: list[Solid], origin: Array, dirs: Array) -> tuple[Array, NDArray[np.intp]]:
    """Return t (N,) of the first hits of rays, and the indices (N,) of the solids, -1 for none."""
    best, index = np.full(dirs.shape[1], np.inf), np.full(dirs.shape[1], -1)
    unit = dirs / np.sqrt(dot(dirs, dirs))
    for number, solid in enumerate(solids):
        centre, bound = solid.centre - origin, 1.001 * solid.shape.bound
        away = float(centre @ centre) - bound**2
        # skip rays outside the cone around the bounding sphere
        rays = np.flatnonzero(dot(centre, unit) > (np.sqrt(away) if away > 0 else -np.inf))
        t = solid.intersect(origin, dirs[:, rays])
        closer = t < best[rays]
        best[rays[closer]], index[rays[closer]] = t[closer], number
    return best, index
