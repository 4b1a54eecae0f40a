"""A small PASCAL_MT as distributed: real MATLAB structures, one speciality per image."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import scipy.io
from PIL import Image

from vmt_mm.conversion.pascal_context import pascal_context

SIZE = (12, 16)
TRAIN, VAL = ("a", "b", "c"), ("d", "e")
#: A class whose normals are used (the floor), and one whose normals are not.
WALL, FLOOR, SKY = 440, 158, 360


def box(top, bottom, left, right):
    """A mask that is 1 inside a box."""
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def _structs(entries, fields):
    """A row of MATLAB structures; 0 x 0 if empty, as in PASCAL-Part."""
    array = np.empty((1, len(entries)) if entries else (0, 0), [(f, object) for f in fields])
    for index, entry in enumerate(entries):
        array[0, index] = entry
    return array


def thing(index, *parts, size=SIZE):
    """An object of PASCAL-Part: class, its index, mask, parts."""
    parts = _structs(list(parts), ("part_name", "mask"))
    return ("person" if index == 15 else "cat", index, np.ones(size, np.uint8), parts)


def save_parts(path, *things):
    """Write ``anno``: the image's name and its objects."""
    objects = _structs(list(things), ("class", "class_ind", "mask", "parts"))
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"anno": {"imname": path.stem, "objects": objects}}, do_compression=True)


def save_png(path, values, palette=False):
    """Write an image, optionally with a palette, as VOC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def save_context(path, values):
    """Write ``LabelMap``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"LabelMap": values.astype(np.uint16)}, do_compression=True)


def context():
    """Wall above, floor below on the left, sky on the right."""
    values = np.full(SIZE, WALL)
    values[6:, :10] = FLOOR
    values[:, 10:] = SKY
    return values


def raw_normals():
    """Normals: walls towards the camera, floors up; y points down, so up is (0, -1, 0)."""
    values = np.empty((*SIZE, 3))
    values[:] = (128, 128, 255)
    values[6:, :10] = (128, 0, 128)
    values[0, 0] = 0
    return values


def make_raw(root: Path) -> Path:
    """Write five intact images; ``b`` has no person, ``c`` uses the other set of classes."""
    rng = np.random.default_rng(0)
    for i in (*TRAIN, *VAL):
        (root / "JPEGImages").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"JPEGImages/{i}.jpg"), rng.integers(0, 256, (*SIZE, 3), np.uint8))
        classes = np.full(SIZE, 255)
        classes[2:, 2:] = 15
        folder = "pascal-context" if i == "c" else "VOC12"
        save_png(root / f"semseg/{folder}/{i}.png", classes, palette=folder == "VOC12")
        save_png(root / f"sal_distill/{i}.png", box(0, 6, 0, 8) * 200)
        save_png(root / f"normals_distill/{i}.png", raw_normals())
        save_context(root / f"pascal-context/trainval/{i}.mat", context())
        save_parts(
            root / f"human_parts/{i}.mat",
            thing(8, ("head", box(0, 12, 0, 16))),  # a cat's
            thing(15, ("hair", box(0, 3, 0, 4)), ("torso", box(2, 6, 0, 4))),  # overlap in row 2
            thing(15),  # without parts
            thing(15, ("lfoot", box(8, 12, 6, 9)), ("lhand", box(4, 6, 2, 9))),
        )
    save_parts(root / "human_parts/b.mat", thing(8, ("head", box(0, 2, 0, 2))), thing(15))
    # The other set of classes, which is only used where VOC has none.
    save_png(root / "semseg/pascal-context/a.png", np.full(SIZE, 3))
    lists = root / "ImageSets/Context"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(TRAIN))
    (lists / "val.txt").write_text("\n".join(VAL) + "\n\n")
    return root


def recipe(axes="x,-y,z"):
    """The recipe, for a set of five images."""
    return dataclasses.replace(pascal_context(axes), expected=dict(train=3, val=2))


def tree(folder):
    """Content of every file, without what is specific to a run."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in files
        if p.name not in ("report.json", "conversion.jsonl")
    }


def damage(raw):
    """Damage a raw set in every way; return what the report must say."""
    (raw / "normals_distill/a.png").unlink()
    mat = raw / "human_parts/c.mat"
    mat.write_bytes(mat.read_bytes()[:-40])
    save_png(raw / "sal_distill/d.png", np.zeros((12, 15)))
    jpeg = raw / "JPEGImages/e.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:200])
    (raw / "pascal-context/trainval/b.mat").unlink()
    return [
        "normals_distill/a.png: missing",
        "pascal-context/trainval/b.mat: missing",
        "human_parts/c.mat: cannot be read as a MATLAB file",
        "sal_distill/d.png: label of size (12, 15) (height, width), but the image has (12, 16)",
        "JPEGImages/e.jpg: the JPEG is truncated",
    ]


def read(path):
    """A label as stored, (H, W) or RGB."""
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return values if values.ndim == 2 else values[..., ::-1]
