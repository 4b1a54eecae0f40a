"""Warping a scene's labels equals rendering the warped scene.

Another camera renders the warped scene exactly: a rotation of the image is a roll about the optical
axis, a zoom a change of focal length, a flip a mirrored right axis. Remaining differences are the
offset of the nearest pixel (at most one output pixel here) and the interpolation of normals.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
from exact_maps import exact_interpolation

from vmt_mm.datasets.transforms import make_warp
from vmt_mm.registry import TRANSFORMS
from vmt_mm.rendering.render import render, scene_generator
from vmt_mm.rendering.scene import build_scene
from vmt_mm.tasks import build_tasks

SIZE = 72
SCENES = (1, 2)
SPECS = {
    name: task.label
    for name, task in build_tasks(
        dict(
            semseg=dict(type="Segmentation", num_classes=8),
            human_parts=dict(type="Segmentation", num_classes=7),
            saliency=dict(type="Saliency"),
            normals=dict(type="Normals"),
            edge=dict(type="Edge"),
            depth=dict(type="Depth"),
        )
    ).items()
}


@functools.cache
def _rendered(index, size=SIZE, flip=False, angle=0.0, scale=1.0):
    """Labels of a scene whose image is flipped, then rotated, then enlarged."""
    scene = build_scene(scene_generator(0, "train", index))
    right, up, back = scene.camera.rotation.T
    # The image turns counter-clockwise if the camera turns clockwise.
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    mirrored = -right if flip else right
    axes = (cos * mirrored - sin * up, sin * mirrored + cos * up, back)
    camera = replace(
        scene.camera,
        rotation=np.stack(axes, axis=1),
        tan_half_fov=scene.camera.tan_half_fov / scale,
    )
    found = render(replace(scene, camera=camera), size, np.random.default_rng(0))
    parts = np.zeros((size, size), np.uint8) if found.human_parts is None else found.human_parts
    return dict(
        semseg=found.semseg,
        human_parts=parts,
        saliency=found.saliency // 255,
        normals=found.normals,
        edge=found.edge // 255,
        depth=found.depth,
    )


def _around(values):
    """The values (9, H, W, ...) of each pixel and its neighbours."""
    padded = np.pad(values, [(1, 1), (1, 1)] + [(0, 0)] * (values.ndim - 2), mode="edge")
    height, width = values.shape[:2]
    return np.stack([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)])


def _angle(a, b):
    return np.rad2deg(np.arccos(np.clip((a * b).sum(axis=-1), -1, 1)))


def _compare(found, expected):
    """Check that almost every warped pixel is among the rendered values at and next to it.

    Not all: objects thinner than a pixel may appear in only one of the images.
    """
    visible = found["semseg"] != 255  # not outside the source image
    assert visible.mean() > 0.5
    for name in ("semseg", "human_parts", "saliency"):
        assert ((found[name] != 255) == visible).all(), name
        present = (_around(expected[name]) == found[name]).any(axis=0)
        assert present[visible].mean() > 0.995, name
        assert (found[name] == expected[name])[visible].mean() > 0.95, name
    _compare_depth(found["depth"], expected["depth"], visible)
    _compare_normals(found["normals"], expected["normals"], visible)
    # A line of one pixel may move by one; a smaller image drops pixels of it.
    edges, rendered = (labels["edge"] == 1 for labels in (found, expected))
    assert _widened(rendered)[edges & visible].mean() > 0.99
    assert _widened(edges)[rendered & visible].mean() > 0.95


def _compare_depth(found, expected, visible):
    assert ((found > 0) == visible).all()
    around, slack = _around(expected), 0.01 * expected
    inside = (found > around.min(axis=0) - slack) & (found < around.max(axis=0) + slack)
    assert inside[visible].mean() > 0.995
    assert np.median(np.abs(found / expected - 1)[visible]) < 0.01


def _compare_normals(found, expected, visible):
    assert (found.any(axis=-1) == visible).all()
    spread = _angle(_around(expected), expected).max(axis=0)
    error = _angle(found, expected)
    assert (error <= spread + 1)[visible].mean() > 0.99
    assert np.median(error[visible]) < 0.1


def _widened(mask):
    """A mask (H, W), dilated by two pixels."""
    return _around(_around(mask).any(axis=0)).any(axis=0)


WARPS = {
    "flip": dict(flip=True),
    "left": dict(angle=20.0),
    "right": dict(angle=-13.0),
    "quarter": dict(angle=90.0),
    "larger": dict(scale=1.25),
    "smaller": dict(scale=0.75),
    "all": dict(flip=True, angle=17.0, scale=1.2),
}


@exact_interpolation
@pytest.mark.parametrize("index", SCENES)
@pytest.mark.parametrize("name", WARPS)
def test_warped_labels_are_those_of_the_warped_scene(name, index):
    labels, expected = _rendered(index), _rendered(index, **WARPS[name])
    warp = make_warp((SIZE, SIZE), (SIZE, SIZE), **WARPS[name])
    found = {task: spec.warp(labels[task].copy(), warp) for task, spec in SPECS.items()}
    _compare(found, expected)
    changed = [task for task in SPECS if (labels[task] != expected[task]).any()]
    assert set(changed) >= {
        "semseg",
        "normals",
        "edge",
        "depth",
    }  # otherwise this would prove little


def _transformed(labels, *cfgs):
    sample = dict(
        img=np.zeros((SIZE, SIZE, 3), np.uint8),
        labels={task: label.copy() for task, label in labels.items()},
        label_specs=SPECS,
    )
    for cfg in cfgs:
        sample = TRANSFORMS.build(cfg)(sample)
    return sample["labels"]


@pytest.mark.parametrize("index", SCENES)
def test_flip_is_exact(index):
    found = _transformed(_rendered(index), dict(type="RandomFlip", prob=1.0))
    expected = _rendered(index, flip=True)
    for task in ("semseg", "human_parts", "saliency"):
        # rounding decides whether a grazing ray hits
        assert (found[task] != expected[task]).sum() <= 1
    np.testing.assert_allclose(found["normals"], expected["normals"], atol=1e-5)
    np.testing.assert_allclose(found["depth"], expected["depth"], rtol=1e-5)


@pytest.mark.parametrize("index", SCENES)
def test_scale_and_crop_are_a_zoom(index):
    larger = SIZE * 4 // 3
    resize = dict(
        type="RandomResize", scale=(SIZE, SIZE), ratio_range=(4 / 3, 4 / 3), keep_ratio=True
    )
    labels = _transformed(_rendered(index), resize)
    start = (larger - SIZE) // 2
    middle = slice(start, start + SIZE)
    found = {task: label[middle, middle] for task, label in labels.items()}
    _compare(found, _rendered(index, scale=4 / 3))
