"""Writes rendered scenes as a folder of images and label maps."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vmt_mm.utils.pool import run_parallel

from .render import RenderedScene, render_scene

# To be raised whenever the same arguments come to give other pixels.
RENDERER_VERSION = 1
#: File that tells what a folder was rendered with.
MANIFEST = "shapes.json"

FOLDERS = ("images", "semseg", "human_parts", "saliency", "normals", "edge", "depth", "splits")

_Job = tuple[str, int, str, int, int]


def encode_normals(normals: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Encode unit normals (H, W, 3) as uint8 v with n = 2 * v / 255 - 1."""
    return np.clip(np.rint((normals + 1) * 127.5), 0, 255).astype(np.uint8)


def encode_depth(depth: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Encode depths (H, W) in metres as millimetres; 0, which means invalid, never occurs."""
    return np.clip(np.rint(depth * 1000), 1, 65535).astype(np.uint16)


def _save(path: Path, image: NDArray, *options: int) -> None:
    if image.ndim == 3:
        image = np.ascontiguousarray(image[:, :, ::-1])
    done, data = cv2.imencode(path.suffix, image, options)
    if not done:
        raise OSError(f"cannot encode {path}")
    path.write_bytes(data.tobytes())


def _save_scene(root: Path, name: str, scene: RenderedScene) -> None:
    _save(root / "images" / f"{name}.jpg", scene.image, cv2.IMWRITE_JPEG_QUALITY, 95)
    maps = {
        "semseg": scene.semseg,
        "human_parts": scene.human_parts,
        "saliency": scene.saliency,
        "normals": encode_normals(scene.normals),
        "edge": scene.edge,
        "depth": encode_depth(scene.depth),
    }
    for folder, labels in maps.items():
        if labels is not None:
            _save(root / folder / f"{name}.png", labels)


def scene_id(split: str, index: int) -> str:
    """Return the name that a scene's files bear."""
    return f"{split}_{index:05d}"


def _run(job: _Job) -> None:
    root, seed, split, index, size = job
    _save_scene(Path(root), scene_id(split, index), render_scene(seed, split, index, size))


def manifest(train: int, val: int, size: int, seed: int) -> dict[str, Any]:
    """Return what ``MANIFEST`` holds for these settings."""
    return {"renderer": RENDERER_VERSION, "train": train, "val": val, "size": size, "seed": seed}


def write_dataset(
    root: Path,
    train: int,
    val: int,
    size: int,
    seed: int,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
    extra_splits: Mapping[str, int] | None = None,
) -> None:
    """Render a data set into the folder ``root``; the same arguments write the same bytes.

    ``train``, ``val`` and ``extra_splits`` (by name) count scenes, ``size`` is in pixels, and
    ``progress`` is called with the scenes done and the scenes in all. ``shapes.json`` comes last,
    so a folder that holds it is complete. With more than one worker the calling script must
    guard its entry point with ``if __name__ == "__main__"``, as it is imported again.
    """
    root = Path(root)
    splits = {"train": train, "val": val, **(extra_splits or {})}
    if size < 1 or min(splits.values()) < 0:
        raise ValueError("the size must be positive and no split may have a negative count")
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, count in splits.items():
        names = "".join(f"{scene_id(split, index)}\n" for index in range(count))
        (root / "splits" / f"{split}.txt").write_text(names, encoding="utf-8")
    jobs = [
        (str(root), seed, s, index, size) for s, count in splits.items() for index in range(count)
    ]
    if progress is not None:
        progress(0, len(jobs))
    for done, _ in enumerate(run_parallel(_run, jobs, workers), start=1):
        if progress is not None:
            progress(done, len(jobs))
    facts = manifest(train, val, size, seed)
    if extra_splits:
        facts["extra_splits"] = dict(extra_splits)
    (root / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
