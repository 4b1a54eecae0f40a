"""Render an image and all of its labels from a seed. Pixel arrays (..., N) are row-major."""

import zlib
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vmt_mm.rendering.geometry import Plane, Solid, dot, nearest
from vmt_mm.rendering.scene import Camera, Scene, build_scene
from vmt_mm.rendering.textures import Array, rotate


@dataclass(frozen=True)
class RenderedScene:
    """An RGB image (S, S, 3) with labels (S, S[, 3]) that are exact at pixel centres.

    ``semseg`` and ``human_parts`` are classes; ``saliency`` and ``edge``, 0 or 255; ``depth``,
    metres; ``normals``, x right, y up, z towards the camera; ``instances``, numbers of the objects,
    of which 0..5 are the planes.
    """

    image: NDArray[np.uint8]
    semseg: NDArray[np.uint8]
    human_parts: NDArray[np.uint8] | None  # None without a person
    saliency: NDArray[np.uint8]
    normals: NDArray[np.float32]
    depth: NDArray[np.float32]
    edge: NDArray[np.uint8]
    instances: NDArray[np.uint8]


def scene_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random generator of one scene."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def edges(instances: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return edges (S, S), 255 where the instance differs from the right or lower neighbour's."""
    wider = np.pad(instances, (0, 1), mode="edge")
    edge = (instances != wider[:-1, 1:]) | (instances != wider[1:, :-1])
    return edge.astype(np.uint8) * 255


def camera_rays(camera: Camera, size: int) -> Array:
    """Return world rays (3, size * size) of unit depth through the pixel centres."""
    centre = ((np.arange(size) + 0.5) / size * 2 - 1) * camera.tan_half_fov
    x, y = np.meshgrid(centre, -centre)
    return rotate(camera.rotation, np.stack([x.ravel(), y.ravel(), np.full(size * size, -1.0)]))


def lit(light: Array, solids: list[Solid], points: Array, normals: Array) -> NDArray[np.bool_]:
    """Return a mask (N,) of points (3, N) that face a light at (3,) and are not in shadow."""
    rays = points + 2e-3 * normals - light[:, None]  # offset: no self-shadowing
    visible = dot(rays, normals) < 0
    movable = [solid for solid in solids if not isinstance(solid.shape, Plane)]
    visible[visible] = nearest(movable, light, rays[:, visible])[0] >= 1 - 1e-6
    return visible


def _radiance(scene: Scene, seen: NDArray[np.intp], dirs: Array, points: Array, normals: Array,
              albedo: Array) -> Array:  # fmt: skip
    """Return the radiance (3, N) of the pixels, linear RGB in arbitrary units."""
    view, up = -dirs / np.sqrt(dot(dirs, dirs)), 0.5 + 0.5 * normals[1]
    open_sky = 0.7 + 0.3 * np.clip(points[1] / 0.4, 0, 1) * (1 - up) + 0.3 * up
    ambient = scene.sky[:, None] * up + scene.ground[:, None] * (1 - up)
    # weak light from the camera keeps shading visible in shadows
    diffuse = ambient * open_sky + 0.12 * np.clip(dot(normals, view), 0, 1)
    shine, gloss = np.zeros_like(diffuse), np.array([s.gloss for s in scene.solids])[seen]
    for position, colour in scene.lights:
        to_light = position[:, None] - points
        distance = np.sqrt(dot(to_light, to_light))
        to_light /= distance
        visible = lit(position, scene.solids, points, normals)
        falloff = np.where(visible, 1.6 / (1 + (distance / 3.0) ** 2), 0.0)
        diffuse += colour[:, None] * (falloff * np.clip(dot(normals, to_light), 0, 1))
        half = to_light + view
        peak = np.clip(dot(half / np.sqrt(dot(half, half)), normals), 0, 1) ** 32
        shine += colour[:, None] * (falloff * gloss * peak)
    return albedo * diffuse + shine


def _develop(scene: Scene, light: Array, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Convert radiance (3, size * size) to an RGB photograph (size, size, 3)."""
    exposure, gamma, noise = scene.sensor
    luminance = float(dot(np.array([0.2126, 0.7152, 0.0722]), light).mean())
    exposed = light * (exposure / max(luminance, 1e-6))
    # Reinhard tone mapping with a white point, to compress highlights instead of clipping
    toned = exposed * (1 + exposed / 1.6**2) / (1 + 0.35 * exposed)
    image = np.clip(toned, 0, 1).T.reshape(size, size, 3)
    if (sigma := 0.5 * size / 192) > 0.2:  # the lens blurs by half a pixel at 192 pixels
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    image = np.clip(image, 0, 1) ** (1 / gamma) + rng.normal(0.0, noise, image.shape)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def render(scene: Scene, size: int, rng: np.random.Generator) -> RenderedScene:
    """Render a scene; ``rng`` generates the sensor noise."""
    camera, solids, dirs = scene.camera, scene.solids, camera_rays(scene.camera, size)
    depth, seen = nearest(solids, camera.position, dirs)
    points = camera.position[:, None] + depth * dirs
    normals, albedo = np.empty_like(points), np.empty_like(points)
    for number in np.unique(seen):
        solid, own = solids[number], np.flatnonzero(seen == number)
        local = rotate(solid.rotation.T, points[:, own] - solid.centre[:, None])
        normals[:, own] = rotate(solid.rotation, solid.shape.normal(local))
        albedo[:, own] = solid.texture(local)
    light = _radiance(scene, seen, dirs, points, normals, albedo)
    rows = [(s.category, s.part, 255 * s.salient, s.instance) for s in solids]
    semseg, parts, saliency, instances = np.uint8(rows)[seen].T.reshape(4, size, size)
    image, parts = _develop(scene, light, size, rng), parts if parts.any() else None
    turned = rotate(camera.rotation.T, normals).T.reshape(size, size, 3)
    vectors = np.ascontiguousarray(turned, dtype=np.float32)
    metres, edge = depth.reshape(size, size).astype(np.float32), edges(instances)
    return RenderedScene(image, semseg, parts, saliency, vectors, metres, edge, instances)


def render_scene(seed: int, split: str, index: int, size: int) -> RenderedScene:
    """Render scene ``index`` of a split at S = ``size`` pixels; the scene does not depend on S."""
    rng = scene_generator(seed, split, index)
    return render(build_scene(rng), size, rng)
