"""Recipes of NYU Depth v2: NYUD_MT, an archive with the four standard tasks, and the original.

Classes: Gupta et al., CVPR 2013. Frame of the normals: see :mod:`vmt_mm.conversion.pascal_context`.
"""

import shutil
import zlib
from functools import partial
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import rich.progress
from scipy.ndimage import distance_transform_edt

from vmt_mm.conversion.labels import (
    borders,
    check_size,
    judge_axes,
    normals_label,
    read_mat,
    read_npy,
)
from vmt_mm.conversion.recipe import Label, LabelRule, Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.files import write_image
from vmt_mm.utils.label_files import read_classes
from vmt_mm.utils.normal_frames import parse_frame

_SEGMENTATION = "segmentation/{id}.png"
#: In raw files: number of values (0 = none, 40 classes), and index of "floor".
_CLASSES, _FLOOR = 41, 2
#: Variables of the original's splits.mat.
_SPLITS = dict(train="trainNdxs", val="testNdxs")
#: fx, fy, cx, cy of the original's colour camera, from its toolbox.
_CAMERA = (518.857901, 519.469611, 325.582449, 253.736166)
#: Rows and columns of the original's images inside their white frame.
_INSIDE = np.s_[6:474, 7:632]
#: Unlabelled gaps between classes up to this width in pixels do not interrupt derived edges.
_GAP = 10


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


def nyud_labeled(splits: Path | None, class_mapping: Path | None) -> Recipe:
    """Return the recipe of ``nyu_depth_v2_labeled.mat`` (Silberman et al., ECCV 2012).

    Needs the dataset's splits.mat and Gupta's classMapping40.mat, from 894 to 40 classes. Raises
    InputError if one of them or h5py is missing.
    """
    if splits is None or class_mapping is None:
        raise InputError("nyu_depth_v2_labeled.mat needs --splits and --class-mapping")
    try:
        import_module("h5py")
    except ImportError as error:
        problem = "nyu_depth_v2_labeled.mat needs h5py, install it with `pip install h5py`"
        raise InputError(f"{problem}: {error}") from None
    return Recipe(
        name="NYU Depth v2",
        splits={split: f"{split}.txt" for split in _SPLITS},
        expected=dict(train=795, val=654),
        image="images/{id}.png",
        labels=(
            LabelRule("semseg", ((_SEGMENTATION,),), semseg),
            LabelRule("depth", (("depth/{id}.npy",),), depth),
            LabelRule("edge", ((_SEGMENTATION,),), edge_of_classes),
        ),
        settings={f.name: f"{zlib.crc32(f.read_bytes()):08x}" for f in (splits, class_mapping)},
        camera=_CAMERA,
        unpack=partial(_unpack, splits=splits, class_mapping=class_mapping),
    )


def edge_of_classes(segmentation: Path) -> Label:
    """Make one-pixel lines between classes, in the middle of narrow unlabelled gaps."""
    classes = read_classes(segmentation, _CLASSES)
    labelled = (classes > 0).astype(np.uint8)
    if not labelled.any():
        return Label(None)
    nearest = distance_transform_edt(1 - labelled, return_distances=False, return_indices=True)
    closed = cv2.morphologyEx(labelled, cv2.MORPH_CLOSE, np.ones((_GAP + 1, _GAP + 1), np.uint8))
    return Label((borders(classes[tuple(nearest)]) & (closed > 0)).astype(np.uint8) * 255)


def _unpack(source: Path, folder: Path, splits: Path, class_mapping: Path) -> None:
    """Write files like NYUD_MT's, nothing in the white frame; InputError if one is damaged."""
    table = np.append(0, read_mat(class_mapping, "mapClass").ravel())
    if table.min() < 0 or table.max() >= _CLASSES:
        raise InputError(f"{class_mapping}: expected classes 1 to 40 in mapClass")
    (folder / "depth").mkdir(parents=True)
    for split, key in _SPLITS.items():
        ids = read_mat(splits, key).ravel()
        (folder / f"{split}.txt").write_text("".join(f"{int(i):04}\n" for i in ids))
    try:
        with import_module("h5py").File(source, "r") as content:
            # MATLAB stores the axes in reverse order: (N, 3, W, H), (N, W, H)
            arrays = [content[key] for key in ("images", "labels", "depths")]
            for i in rich.progress.track(range(len(arrays[0])), description="unpacking"):
                image, labels, metres = (array[i].T for array in arrays)
                frame = np.ones(labels.shape, bool)
                frame[_INSIDE] = False
                labels[frame] = metres[frame] = 0
                write_image(folder / f"images/{i + 1:04}.png", image)
                classes = table.astype(np.uint8)[labels]
                write_image(folder / _SEGMENTATION.format(id=f"{i + 1:04}"), classes)
                np.save(folder / f"depth/{i + 1:04}.npy", metres)
    except (IndexError, KeyError, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk, not of the decoder
            raise
        raise InputError(f"{source}: not nyu_depth_v2_labeled.mat, or damaged ({error})") from None
    for file in folder.rglob("*.*"):  # by the time, a repeated run recognises unchanged files
        shutil.copystat(source, file)
