"""Synthetic dataset: scenes with exact labels for every task, rendered on first use."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from vmt_mm.datasets.multi_task_dataset import MultiTaskDataset
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.rendering.labels import CLASSES, PALETTE, PART_CLASSES, PART_PALETTE
from vmt_mm.rendering.writer import MANIFEST, manifest, write_dataset

#: Starting a process takes as long as rendering about this many scenes.
_SCENES_PER_WORKER = 64


@DATASETS.register_module()
class ShapesMT(MultiTaskDataset):
    """Synthetic rooms with objects and people, rendered into ``data_root`` if it does not exist.

    ``render=dict(train=, val=, size=, seed=)``: scenes per split, image side in pixels, seed.
    """

    METAINFO = dict(
        semseg=dict(classes=CLASSES, palette=PALETTE),
        human_parts=dict(classes=PART_CLASSES, palette=PART_PALETTE),
    )

    def __init__(
        self, data_root: str, tasks: Mapping[str, Mapping], render: Mapping[str, int], **kwargs: Any
    ) -> None:
        ensure_rendered(Path(data_root).expanduser(), **render)
        super().__init__(data_root, tasks, **kwargs)

    @classmethod
    def find_problem(cls, data_root: str, ann_file: str = "splits/train.txt") -> str | None:
        """Return None if the folder does not exist yet, because it will be rendered."""
        is_there = Path(data_root).expanduser().exists()
        return super().find_problem(data_root, ann_file) if is_there else None


def ensure_rendered(root: Path, train: int, val: int, size: int, seed: int) -> None:
    """Render the scenes into ``root`` unless they exist; other processes wait for the first.

    Raises InputError if ``root`` contains anything else, or scenes with other settings.
    """
    wanted, root = manifest(train, val, size, seed), root.resolve()
    if _is_rendered(root, wanted):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if _is_rendered(root, wanted):  # by another process in the meantime
            return
        partial = root.with_name(f".{root.name}.rendering")
        shutil.rmtree(partial, ignore_errors=True)
        workers = min(8, os.cpu_count() or 1, (train + val) // _SCENES_PER_WORKER)
        write_dataset(partial, train=train, val=val, size=size, seed=seed, workers=workers)
        os.replace(partial, root)


def _is_rendered(root: Path, wanted: dict[str, int]) -> bool:
    """Whether the scenes exist; raise InputError if the folder contains anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        found = "no rendered scenes"
    if found != wanted:
        problem = f"contains {found}, but the config renders {wanted}"
        raise InputError(f"{root}: {problem}; choose a new data_root")
    return True
