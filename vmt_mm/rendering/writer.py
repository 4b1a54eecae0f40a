"""Write rendered scenes to a folder of images and label maps."""

from pathlib import Path

import numpy as np
from rich.progress import track

from vmt_mm.rendering.render import render_scene
from vmt_mm.utils.files import encode_image, write_bytes, write_json
from vmt_mm.utils.normal_frames import encode_normals
from vmt_mm.utils.processes import run_parallel

RENDERER_VERSION = 1  # increment whenever the same arguments give different pixels
MANIFEST = "shapes.json"  # settings with which a folder was rendered
_MAPS = "semseg", "human_parts", "saliency", "edge"


def _write_scene(job: tuple[Path, int, str, int, int]) -> None:
    root, seed, split, index, size = job
    scene = render_scene(seed, split, index, size)
    files = dict(
        {name: getattr(scene, name) for name in _MAPS},
        images=scene.image,
        normals=encode_normals(scene.normals),
        depth=np.clip(np.rint(scene.depth * 1000), 1, 65535).astype(np.uint16),  # millimetres
    )
    for folder, values in files.items():
        path = root / folder / f"{split}_{index:05d}{'.jpg' if folder == 'images' else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is not None:
            path.write_bytes(encode_image(values, path.suffix, path))


def manifest(train: int, val: int, size: int, seed: int) -> dict[str, int]:
    """Return the content of ``MANIFEST`` for these settings."""
    return dict(renderer=RENDERER_VERSION, train=train, val=val, size=size, seed=seed)


def write_dataset(root: Path, train: int, val: int, size: int, seed: int, workers: int = 2) -> None:
    """Render ``train`` and ``val`` scenes of ``size`` x ``size`` pixels into ``root``.

    ``shapes.json`` is written last. Calling scripts need an ``if __name__ == "__main__"`` guard.
    """
    if size < 1 or min(train, val) < 0:
        raise ValueError("`size` must be positive, `train` and `val` must be >= 0")
    jobs = []
    for split, count in dict(train=train, val=val).items():
        names = "".join(f"{split}_{index:05d}\n" for index in range(count))
        write_bytes(root / "splits" / f"{split}.txt", names.encode())
        jobs += [(root, seed, split, index, size) for index in range(count)]
    work = run_parallel(_write_scene, jobs, workers)
    for _ in track(work, description=f"rendering scenes into {root}", total=len(jobs)):
        pass
    write_json(root / MANIFEST, manifest(train, val, size, seed))
