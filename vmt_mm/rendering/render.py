"""From a seed to an image with all of its labels."""

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rays import rotate
from .scene import Scene, build_scene
from .shading import develop, radiance
from .tracing import trace


@dataclass(frozen=True)
class RenderedScene:
    """An image of S x S pixels with its labels, all exact at the pixels' centres.

    ``image`` uint8 (S, S, 3) RGB; ``semseg`` uint8 (S, S) index into ``CLASSES``;
    ``human_parts`` uint8 (S, S) index into ``PART_CLASSES``, None when no person is visible;
    ``saliency`` and ``edge`` uint8 (S, S), 0 or 255; ``normals`` float32 (S, S, 3), unit, camera
    frame with x right, y up and z towards the camera; ``depth`` float32 (S, S), metres along the
    optical axis; ``instances`` uint8 (S, S), 0..5 the room's planes, from 6 on the objects.
    """

    image: NDArray[np.uint8]
    semseg: NDArray[np.uint8]
    human_parts: NDArray[np.uint8] | None
    saliency: NDArray[np.uint8]
    normals: NDArray[np.float32]
    depth: NDArray[np.float32]
    edge: NDArray[np.uint8]
    instances: NDArray[np.uint8]


def scene_generator(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the source of everything that is random about one scene."""
    return np.random.default_rng([seed, zlib.crc32(split.encode()), index])


def edges(instances: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 255 (S, S) where the instance differs from its right or lower neighbour's."""
    edge = np.zeros(instances.shape, dtype=bool)
    edge[:, :-1] |= instances[:, :-1] != instances[:, 1:]
    edge[:-1] |= instances[:-1] != instances[1:]
    return edge.astype(np.uint8) * 255


def _render(scene: Scene, size: int, rng: np.random.Generator) -> RenderedScene:
    hits = trace(scene.camera, scene.solids, size)

    def per_pixel(values: list[int]) -> NDArray[np.uint8]:
        return np.array(values, dtype=np.uint8)[hits.solid].reshape(size, size)

    solids = scene.solids
    instances = per_pixel([solid.instance for solid in solids])
    parts = per_pixel([solid.part for solid in solids])
    normals = rotate(scene.camera.rotation.T, hits.normals).T.reshape(size, size, 3)
    return RenderedScene(
        image=develop(scene, radiance(scene, hits), size, rng),
        semseg=per_pixel([solid.category for solid in solids]),
        human_parts=parts if parts.any() else None,
        saliency=per_pixel([255 * solid.salient for solid in solids]),
        normals=np.ascontiguousarray(normals, dtype=np.float32),
        depth=hits.depth.reshape(size, size).astype(np.float32),
        edge=edges(instances),
        instances=instances,
    )


def render_scene(seed: int, split: str, index: int, size: int) -> RenderedScene:
    """Render one scene at ``size`` x ``size`` pixels.

    What the scene contains depends on ``seed``, ``split`` and ``index`` alone, so that another
    size shows the same scene; the image, noise included, is a function of all four.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    rng = scene_generator(seed, split, index)
    return _render(build_scene(rng), size, rng)
