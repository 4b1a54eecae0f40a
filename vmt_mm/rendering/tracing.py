"""Which solid every pixel sees, and which pixels a light reaches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .objects import Solid
from .rays import Array, dot, rotate
from .scene import Camera, Light

# Shadow rays end this far (metres) above the surface, lest it shade itself.
_LIFT = 2e-3


@dataclass(frozen=True)
class Hits:
    """What the S*S pixels see, row by row.

    ``solid`` (N,) indexes the scene's solids; ``depth`` (N,) is along the optical axis and
    ``points`` (3, N) in the world, both in metres; ``normals`` (3, N) in the world and
    ``albedo`` (3, N) linear RGB; ``dirs`` (3, N) world rays of unit length along the axis.
    """

    solid: NDArray[np.intp]
    depth: Array
    points: Array
    normals: Array
    albedo: Array
    dirs: Array


def camera_rays(camera: Camera, size: int) -> Array:
    """Return world rays (3, size * size) through the pixel centres, of unit depth."""
    centre = ((np.arange(size) + 0.5) / size * 2 - 1) * camera.tan_half_fov
    x, y = np.meshgrid(centre, -centre)
    return rotate(camera.rotation, np.stack([x.ravel(), y.ravel(), np.full(size * size, -1.0)]))


def _span(across: float, ahead: float, radius: float, tan_half: float, size: int) -> slice:
    """Return the pixels that a disc covers in one image axis, seen in the plane of that axis."""
    distance = np.hypot(across, ahead)
    if distance <= radius:
        return slice(0, size)
    middle, half = np.arctan2(across, ahead), np.arcsin(radius / distance)
    limit = np.pi / 2 - 1e-3
    low, high = np.tan(np.clip([middle - half, middle + half], -limit, limit))
    to_pixel = size / (2 * tan_half)
    first = int(np.clip(np.floor(low * to_pixel + size / 2 - 0.5), 0, size))
    last = int(np.clip(np.ceil(high * to_pixel + size / 2 + 0.5), 0, size))
    return slice(first, last)


def _window(camera: Camera, solid: Solid, size: int) -> tuple[slice, slice]:
    """Return the rows and columns in which a solid's bounding sphere shows."""
    radius = solid.shape.bounding_radius
    if not np.isfinite(radius):
        return slice(0, size), slice(0, size)
    x, y, z = camera.rotation.T @ (solid.centre - camera.position)
    if -z + radius <= 0:
        return slice(0, 0), slice(0, 0)
    tan_half = camera.tan_half_fov
    return _span(-y, -z, radius, tan_half, size), _span(x, -z, radius, tan_half, size)


def trace(camera: Camera, solids: list[Solid], size: int) -> Hits:
    """Find the nearest surface along the ray through every pixel's centre."""
    dirs = camera_rays(camera, size)
    image = dirs.reshape(3, size, size)
    depth = np.full((size, size), np.inf)
    nearest = np.full((size, size), -1, dtype=np.intp)
    for number, solid in enumerate(solids):
        rows, columns = _window(camera, solid, size)
        part = image[:, rows, columns]
        if part.size == 0:
            continue
        t = solid.intersect(camera.position, part.reshape(3, -1)).reshape(part.shape[1:])
        closer = t < depth[rows, columns]
        depth[rows, columns][closer] = t[closer]
        nearest[rows, columns][closer] = number
    flat, index = depth.ravel(), nearest.ravel()
    points = camera.position[:, None] + flat * dirs
    normals, albedo = np.empty_like(points), np.empty_like(points)
    for number in np.unique(index):
        solid, seen = solids[number], np.flatnonzero(index == number)
        local = solid.to_local(points[:, seen])
        normals[:, seen] = rotate(solid.rotation, solid.shape.normal(local))
        albedo[:, seen] = solid.texture.albedo(local)
    return Hits(index, flat, points, normals, albedo, dirs)


def lit(light: Light, solids: list[Solid], hits: Hits) -> NDArray[np.bool_]:
    """Return which pixels (N,) face the light and have nothing between them and it."""
    rays = hits.points + _LIFT * hits.normals - light.position[:, None]
    visible = dot(rays, hits.normals) < 0
    candidates = np.flatnonzero(visible)
    rays = rays[:, candidates]
    length = np.sqrt(dot(rays, rays))
    unit = rays / length
    for solid in solids:
        radius = solid.shape.bounding_radius
        if not np.isfinite(radius):
            continue
        centre = solid.centre - light.position
        distance = np.sqrt(centre @ centre)
        near = length > distance - radius
        if distance > radius:
            near &= dot(centre, unit) > np.sqrt(distance**2 - radius**2)
        chosen = np.flatnonzero(near)
        if chosen.size:
            t = solid.intersect(light.position, rays[:, chosen])
            visible[candidates[chosen[t < 1 - 1e-6]]] = False
    return visible
