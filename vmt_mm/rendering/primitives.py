"""Analytic ray intersections of the shapes that scenes are made of.

Every shape lives in its own frame, centred on the origin, with its axis of symmetry along y.
Vectors are (3, N) and in metres.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from .rays import T_MIN, TINY, Array, dot, lateral, nonzero, radial, sphere


class Shape(ABC):
    """A solid (or a half space) that rays can hit from outside."""

    @abstractmethod
    def intersect(self, origin: Array, dirs: Array) -> Array:
        """Return t (N,) of the first hit of origin (3,) + t * dirs (3, N), inf for a miss."""

    @abstractmethod
    def normal(self, points: Array) -> Array:
        """Return the outward unit normals (3, N) at surface points (3, N)."""

    @property
    @abstractmethod
    def bounding_radius(self) -> float:
        """Radius in metres of a sphere round the frame's origin that holds the shape."""


@dataclass(frozen=True)
class Plane(Shape):
    """The plane y = 0, seen from y > 0 only."""

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        t = -origin[1] / nonzero(dirs[1])
        return np.where((dirs[1] < 0) & (t > T_MIN), t, np.inf)

    def normal(self, points: Array) -> Array:  # noqa: D102
        return np.stack(
            [np.zeros_like(points[0]), np.ones_like(points[0]), np.zeros_like(points[0])]
        )

    @property
    def bounding_radius(self) -> float:  # noqa: D102
        return np.inf


@dataclass(frozen=True)
class Box(Shape):
    """A cuboid given by its half extents along x, y and z in metres."""

    half: tuple[float, float, float]

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        inverse = 1.0 / nonzero(dirs)
        half, start = np.asarray(self.half)[:, None], origin[:, None]
        one, two = (-half - start) * inverse, (half - start) * inverse
        near = np.minimum(one, two).max(axis=0)
        far = np.maximum(one, two).min(axis=0)
        return np.where((near <= far) & (near > T_MIN), near, np.inf)

    def normal(self, points: Array) -> Array:  # noqa: D102
        # The face is the one the point is nearest to; a ratio would favour thin sides at the rims.
        axis = np.argmin(np.abs(np.abs(points) - np.asarray(self.half)[:, None]), axis=0)
        normals = np.zeros_like(points)
        column = np.arange(points.shape[1])
        normals[axis, column] = np.where(points[axis, column] < 0, -1.0, 1.0)
        return normals

    @property
    def bounding_radius(self) -> float:  # noqa: D102
        return float(np.linalg.norm(self.half))


@dataclass(frozen=True)
class Sphere(Shape):
    """A ball of a radius in metres."""

    radius: float

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        return sphere(origin, dirs, self.radius)

    def normal(self, points: Array) -> Array:  # noqa: D102
        return points / np.sqrt(dot(points, points))

    @property
    def bounding_radius(self) -> float:  # noqa: D102
        return self.radius


@dataclass(frozen=True)
class Frustum(Shape):
    """A closed truncated cone between y = -half and y = +half; metres throughout."""

    bottom: float
    top: float
    half: float

    @property
    def _side(self) -> tuple[float, float]:
        return (self.bottom + self.top) / 2, (self.top - self.bottom) / (2 * self.half)

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        best = lateral(origin, dirs, *self._side, -self.half, self.half)
        slant = nonzero(dirs[1])
        for height, radius in ((-self.half, self.bottom), (self.half, self.top)):
            t = (height - origin[1]) / slant
            x, z = origin[0] + t * dirs[0], origin[2] + t * dirs[2]
            inside = (x * x + z * z <= radius * radius) & (t > T_MIN)
            best = np.where(inside & (t < best), t, best)
        return best

    def normal(self, points: Array) -> Array:  # noqa: D102
        mid, slope = self._side
        rho, x, z = radial(points)
        y = points[1]
        cosine = 1 / np.sqrt(1 + slope * slope)
        cap = np.abs(np.abs(y) - self.half) < np.abs(rho - (mid + slope * y)) * cosine
        up = np.where(cap, np.sign(y), -slope * cosine)
        return np.stack([np.where(cap, 0.0, x * cosine), up, np.where(cap, 0.0, z * cosine)])

    @property
    def bounding_radius(self) -> float:  # noqa: D102
        return float(np.hypot(self.half, max(self.bottom, self.top)))


def cylinder(radius: float, half: float) -> Frustum:
    """Return a closed cylinder along y; metres."""
    return Frustum(radius, radius, half)


def cone(radius: float, half: float) -> Frustum:
    """Return a closed cone with its base at y = -half and its apex at y = +half; metres."""
    return Frustum(radius, 0.0, half)


@dataclass(frozen=True)
class Capsule(Shape):
    """Hull of a ball at y = -half and one at y = +half, of radii that may differ; metres."""

    bottom: float
    top: float
    half: float

    @property
    def _sine(self) -> float:
        return (self.bottom - self.top) / (2 * self.half)

    def _rings(self) -> tuple[float, float]:
        """Heights of the circles in which the side touches the two balls."""
        return -self.half + self.bottom * self._sine, self.half + self.top * self._sine

    def intersect(self, origin: Array, dirs: Array) -> Array:  # noqa: D102
        sine = self._sine
        cosine = np.sqrt(1 - sine * sine)
        # The side runs at distance (bottom - sine * (y + half)) / cosine from the axis.
        mid = (self.bottom - sine * self.half) / cosine
        best = lateral(origin, dirs, mid, -sine / cosine, *self._rings())
        for height, radius in ((-self.half, self.bottom), (self.half, self.top)):
            best = np.minimum(best, sphere(origin - np.array([0, height, 0]), dirs, radius))
        return best

    def normal(self, points: Array) -> Array:  # noqa: D102
        low, high = self._rings()
        sine = self._sine
        cosine = np.sqrt(1 - sine * sine)
        _, x, z = radial(points)
        side = np.stack([x * cosine, np.full_like(x, sine), z * cosine])
        ball = points.copy()
        ball[1] -= np.where(points[1] > (low + high) / 2, self.half, -self.half)
        ball /= np.maximum(np.sqrt(dot(ball, ball)), TINY)
        return np.where((points[1] >= low) & (points[1] <= high), side, ball)

    @property
    def bounding_radius(self) -> float:  # noqa: D102
        return self.half + max(self.bottom, self.top)
