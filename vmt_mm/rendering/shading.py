"""Light, and the camera's blur, noise and tone curve."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .rays import Array, dot
from .scene import Scene
from .tracing import Hits, lit

# The lens blurs by half a pixel at this image size (pixels), and in proportion elsewhere.
_REFERENCE_SIZE = 192
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def radiance(scene: Scene, hits: Hits) -> Array:
    """Return the light (3, N), linear RGB in arbitrary units, that reaches the pixels."""
    view = -hits.dirs / np.sqrt(dot(hits.dirs, hits.dirs))
    up = 0.5 + 0.5 * hits.normals[1]
    # Corners get less of the ambient light: a cheap stand-in for its occlusion by the floor.
    open_sky = 0.7 + 0.3 * np.clip(hits.points[1] / 0.4, 0, 1) * (1 - up) + 0.3 * up
    ambient = scene.look.sky[:, None] * up + scene.look.ground[:, None] * (1 - up)
    # A weak glow from the camera's side keeps surfaces in the shadow from going flat.
    glow = 0.12 * np.clip(dot(hits.normals, view), 0, 1)
    diffuse = ambient * open_sky + glow
    shine = np.zeros_like(diffuse)
    gloss = np.array([solid.gloss for solid in scene.solids])[hits.solid]
    for light in scene.lights:
        seen = lit(light, scene.solids, hits)
        to_light = light.position[:, None] - hits.points
        distance = np.sqrt(dot(to_light, to_light))
        to_light /= distance
        falloff = np.where(seen, 1.6 / (1 + (distance / 3.0) ** 2), 0.0)
        cosine = np.clip(dot(hits.normals, to_light), 0, 1)
        diffuse += light.colour[:, None] * (falloff * cosine)
        half = to_light + view
        half /= np.sqrt(dot(half, half))
        peak = np.clip(dot(half, hits.normals), 0, 1) ** 32
        shine += light.colour[:, None] * (falloff * gloss * peak)
    return hits.albedo * diffuse + shine


def develop(scene: Scene, light: Array, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn light (3, size * size) into an RGB photograph (size, size, 3)."""
    look = scene.look
    exposed = light * (look.exposure / max(float(dot(_LUMINANCE, light).mean()), 1e-6))
    # Reinhard's curve with a white point, so that highlights roll off instead of clipping.
    toned = exposed * (1 + exposed / 1.6**2) / (1 + 0.35 * exposed)
    image = np.clip(toned, 0, 1).T.reshape(size, size, 3)
    sigma = 0.5 * size / _REFERENCE_SIZE
    if sigma > 0.2:
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    image = np.clip(image, 0, 1) ** (1 / look.gamma)
    image = image + rng.normal(0.0, look.noise, image.shape)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)
