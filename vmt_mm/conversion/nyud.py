"""Recipe of NYUD_MT, the archive of NYU Depth v2 with the four standard tasks.

Classes: Gupta et al., CVPR 2013. Frame of the normals: see :mod:`vmt_mm.conversion.pascal_context`.
"""

from functools import partial
from pathlib import Path

import numpy as np

from vmt_mm.conversion.labels import check_size, judge_axes, normals_label, read_npy
from vmt_mm.conversion.recipe import Label, LabelRule, Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.label_files import read_classes
from vmt_mm.utils.normal_frames import parse_frame

_SEGMENTATION = "segmentation/{id}.png"
#: In raw files: number of values (0 = none, 40 classes), and index of "floor".
_CLASSES, _FLOOR = 41, 2


def semseg(path: Path) -> Label:
    """Convert 1..40 to classes 0..39, and 0 to 255 (ignored)."""
    raw = read_classes(path, _CLASSES)
    return Label(np.where(raw == 0, np.uint8(255), raw - np.uint8(1)))


def depth(path: Path) -> Label:
    """Convert metres to millimetres; 0 means no depth. Without any, there is no label."""
    metres = read_npy(path).astype(np.float64)
    valid = np.isfinite(metres) & (metres > 0)
    millimetres = np.rint(np.where(valid, metres, 0) * 1000)
    if millimetres.max(initial=0) > 65535:
        raise InputError(f"{path}: expected at most 65.535 metres, got {metres[valid].max():g}")
    millimetres[valid] = np.maximum(millimetres[valid], 1)
    return Label(millimetres.astype(np.uint16) if valid.any() else None)


def normals(path: Path, segmentation: Path | None, axes: str) -> Label:
    """Make unit normals in the camera frame; pixels with (0, 0, 0), NaN or infinity have none."""
    vectors, floor = read_npy(path, (3,)).astype(np.float32), None
    largest = np.nanmax(np.abs(vectors), initial=0)
    if largest > 1.01:
        raise InputError(f"{path}: expected unit vectors, got an absolute value of {largest:g}")
    if segmentation is not None:
        floor = read_classes(segmentation, _CLASSES) == _FLOOR
        check_size(path, vectors, segmentation, floor)
    return normals_label(vectors, np.isfinite(vectors).all(axis=-1), axes, floor)


def edge(path: Path) -> Label:
    """Convert edges 0 or 1 to 0 or 255."""
    values = read_npy(path).astype(np.float32)
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(f"{path}: expected edges 0 or 1, got {values.min():g} to {values.max():g}")
    return Label((values > 0.5).astype(np.uint8) * 255)


def nyud(normals_axes: str) -> Recipe:
    """Return the recipe of NYUD_MT. Raises InputError if the axes are invalid."""
    axes = parse_frame(normals_axes)
    vectors = (("normals/{id}.npy",), (_SEGMENTATION, None))
    return Recipe(
        name="NYUD_MT",
        splits={split: f"gt_sets/{split}.txt" for split in ("train", "val")},
        expected=dict(train=795, val=654),
        image="images/{id}.jpg",
        labels=(
            LabelRule("semseg", ((_SEGMENTATION,),), semseg),
            LabelRule("depth", (("depth/{id}.npy",),), depth),
            LabelRule("normals", vectors, partial(normals, axes=axes)),
            LabelRule("edge", (("edge/{id}.npy",),), edge),
        ),
        settings=dict(normals_axes=axes),
        judge=partial(judge_axes, axes=axes),
    )
