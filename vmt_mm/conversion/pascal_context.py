"""Recipe of PASCAL_MT, the archive of PASCAL-Context with the five standard tasks.

Maninis et al., CVPR 2019, https://arxiv.org/abs/1904.08918, compiled it from classes of PASCAL VOC
2012 and PASCAL-Context, parts of PASCAL-Part, and saliency and normals predicted by networks.

The archive does not document the frame of the normals. The default ``x,-y,z`` (x right, y down, z
towards the camera) matches the augmentation code of projects that use it, and the usual colours of
NYU's normals, on which the network was trained. The report warns if most pixels do not face the
camera, or most floors do not face up.
"""

from functools import partial
from pathlib import Path

import numpy as np

from vmt_mm.conversion.labels import borders, check_size, judge_axes, normals_label, read_mat
from vmt_mm.conversion.recipe import Label, LabelRule, Recipe
from vmt_mm.errors import InputError
from vmt_mm.utils.label_files import read_classes, read_label, read_mask
from vmt_mm.utils.normal_frames import parse_frame

_CONTEXT = "pascal-context/trainval/{id}.mat"
_CLASSES, _CONTEXT_CLASSES, _IGNORE = 21, 459, 255
#: Index of the class "person" in PASCAL VOC, and of "floor" in PASCAL-Context.
_PERSON, _FLOOR = 15, 158
#: Class of human parts -> parts of PASCAL-Part; 0 is everything else.
_PARTS = {
    1: "hair head lear rear leye reye lebrow rebrow nose mouth",
    2: "torso neck",
    3: "luarm ruarm",
    4: "llarm rlarm lhand rhand",
    5: "luleg ruleg",
    6: "llleg rlleg lfoot rfoot",
}
PART_INDEX = {name: index for index, names in _PARTS.items() for name in names.split()}
#: Indices of PASCAL-Context classes that NYU Depth v2 also has. The network that predicted the
#: normals was trained on these, and the field uses its normals only there.
# fmt: off
NORMALS_CLASSES = (
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49,
    50, 51, 53, 55, 56, 59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101,
    104, 105, 107, 111, 113, 115, 122, 124, 135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165,
    172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213, 215, 216, 219, 220, 223, 225, 228,
    230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269, 272, 273, 275,
    281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319,
    323, 329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380,
    383, 384, 397, 401, 403, 405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430,
    432, 440, 441, 442, 443, 444, 446, 454, 457,
)
# fmt: on


def semseg(path: Path) -> Label:
    """Keep the classes; palette images keep their indices."""
    return Label(read_classes(path, _CLASSES, _IGNORE))


def human_parts(path: Path) -> Label:
    """Make part classes, 0 elsewhere; later parts overwrite others. No label without parts."""
    content, values = read_mat(path, "anno"), None
    try:
        for thing in content[0][0][1].ravel():  # class, its index, mask, parts: names with masks
            for part in thing[3].ravel() if int(thing[1].item()) == _PERSON else ():
                name, mask = str(part[0].item()), part[1]
                if mask.ndim != 2 or mask.dtype.kind not in "bui":
                    raise ValueError(f"a mask of shape {mask.shape} and type {mask.dtype}")
                values = np.zeros(mask.shape, np.uint8) if values is None else values
                values[mask.astype(bool)] = PART_INDEX[name]
    except KeyError as error:
        raise InputError(f"{path}: unknown part {error}") from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not structured like PASCAL-Part ({error})") from None
    return Label(values if values is not None and values.any() else None)


def saliency(path: Path) -> Label:
    """Keep the values, 0..255."""
    return Label(read_mask(path))


def normals(path: Path, context: Path, axes: str) -> Label:
    """Make normals in the camera frame, only for classes in ``NORMALS_CLASSES``."""
    values = read_label(path, "8-bit RGB surface normals", np.uint8, channels=3)
    classes = read_context(context)
    check_size(path, values, context, classes)
    valid = np.isin(classes, NORMALS_CLASSES) & values.any(axis=-1)
    vectors = values.astype(np.float32) * (2 / 255) - 1
    return normals_label(vectors, valid, axes, floor=classes == _FLOOR)


def edge(context: Path) -> Label:
    """Make one-pixel lines where the class changes: nonzero Laplacian, thinned."""
    return Label(borders(read_context(context)).astype(np.uint8) * 255)


def read_context(path: Path) -> np.ndarray:
    """Read PASCAL-Context classes (H, W), 1..459, or 0 for none."""
    classes = read_mat(path, "LabelMap")
    if classes.ndim != 2 or classes.dtype.kind not in "uif":
        raise InputError(f"{path}: expected LabelMap of shape (H, W), got {classes.shape}")
    low, high = classes.min(initial=0), classes.max(initial=0)
    if low < 0 or high > _CONTEXT_CLASSES:
        raise InputError(f"{path}: expected classes 0 to {_CONTEXT_CLASSES}, got {low} to {high}")
    return classes


def pascal_context(normals_axes: str) -> Recipe:
    """Return the recipe of PASCAL_MT. Raises InputError if the axes are invalid."""
    axes = parse_frame(normals_axes)
    classes = ("semseg/VOC12/{id}.png", "semseg/pascal-context/{id}.png")
    vectors = (("normals_distill/{id}.png",), (_CONTEXT,))
    return Recipe(
        name="PASCAL_MT",
        splits={split: f"ImageSets/Context/{split}.txt" for split in ("train", "val")},
        expected=dict(train=4998, val=5105),
        image="JPEGImages/{id}.jpg",
        labels=(
            LabelRule("semseg", (classes,), semseg),
            LabelRule("human_parts", (("human_parts/{id}.mat",),), human_parts),
            LabelRule("saliency", (("sal_distill/{id}.png",),), saliency),
            LabelRule("normals", vectors, partial(normals, axes=axes)),
            LabelRule("edge", ((_CONTEXT,),), edge),
        ),
        settings=dict(normals_axes=axes),
        judge=partial(judge_axes, axes=axes),
    )
