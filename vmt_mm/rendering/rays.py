"""Vectors, rays and the round surfaces that primitives share.

Vectors are stored component first, ``(3, N)``, in metres: each component is then contiguous,
and no matrix product has to go through a BLAS, whose rounding may depend on its thread count.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Hits nearer than this (in units of the ray direction) are taken for the ray's own origin.
T_MIN = 1e-6
TINY = 1e-12


def rotate(matrix: Array, vectors: Array) -> Array:
    """Apply a (3, 3) matrix to (3, N) vectors; returns (3, N)."""
    x, y, z = vectors
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in matrix])


def dot(a: Array, b: Array) -> Array:
    """Dot products of (3, N) or (3, 1) vectors along the first axis; returns (N,)."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def nonzero(values: Array) -> Array:
    """Return values (N,) with those near zero replaced, so as to be divided by."""
    return np.where(np.abs(values) < TINY, TINY, values)


def quadratic(a: Array, half_b: Array, c: Array | float) -> tuple[Array, Array]:
    """Roots of a t^2 + 2 half_b t + c = 0, NaN where there are none; two (N,) arrays."""
    disc = half_b * half_b - a * c
    root = np.sqrt(np.where(disc >= 0, disc, np.nan))
    a = nonzero(a)
    return (-half_b - root) / a, (-half_b + root) / a


def sphere(origin: Array, dirs: Array, radius: float) -> Array:
    """First hits (N,) of rays with a sphere round the frame's origin, inf for a miss."""
    near, _ = quadratic(dot(dirs, dirs), dot(origin, dirs), float(origin @ origin) - radius**2)
    return np.where(near > T_MIN, near, np.inf)


def lateral(origin: Array, dirs: Array, mid: float, slope: float, low: float, high: float) -> Array:
    """First hits (N,) with the side x^2 + z^2 = (mid + slope y)^2 for low <= y <= high (metres)."""
    (ox, oy, oz), (dx, dy, dz) = origin, dirs
    reach = mid + slope * oy
    roots = quadratic(
        dx * dx + dz * dz - slope * slope * dy * dy,
        ox * dx + oz * dz - slope * reach * dy,
        ox * ox + oz * oz - reach * reach,
    )
    best = np.full(dx.shape, np.inf)
    for t in roots:
        y = oy + t * dy
        best = np.where((t > T_MIN) & (y >= low) & (y <= high) & (t < best), t, best)
    return best


def radial(points: Array) -> tuple[Array, Array, Array]:
    """Distance (N,) from the y axis and the unit radial direction's x and z (N,) each."""
    rho = np.hypot(points[0], points[2])
    safe = np.maximum(rho, TINY)
    return rho, points[0] / safe, points[2] / safe
