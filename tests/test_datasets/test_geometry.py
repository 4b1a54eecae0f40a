"""Geometry: exact where possible, and the same for the image and all its labels."""

import cv2
import numpy as np
import pytest
from exact_maps import EXACT, exact_interpolation
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from PIL import Image

from vmt_mm.datasets.transforms import RandomWarp, make_warp
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS
from vmt_mm.rendering import render_scene
from vmt_mm.tasks import Depth, Edge, Normals, Saliency, Segmentation

SPECS = {
    "semseg": Segmentation("semseg", num_classes=21).label,
    "saliency": Saliency.label,
    "normals": Normals.label,
    "edge": Edge.label,
    "depth": Depth("depth").label,
}
# Value of a missing label, by kind; repeated here on purpose, independently of the package.
NO_LABEL = {"semseg": 255, "saliency": 255, "edge": 255, "normals": 0, "depth": 0}


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("vmt_mm")
    np.random.seed(0)


def _labels(height, width, seed=0):
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(height, width, 3))
    normals /= np.sqrt((normals**2).sum(-1, keepdims=True))
    return {
        "semseg": rng.integers(0, 8, (height, width), dtype=np.uint8),
        "saliency": rng.integers(0, 2, (height, width), dtype=np.uint8),
        "normals": normals.astype(np.float32),
        "edge": rng.integers(0, 2, (height, width), dtype=np.uint8),
        "depth": rng.uniform(1, 9, (height, width)).astype(np.float32),
    }


def _sample(height, width, seed=0):
    image = np.random.default_rng(seed + 1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return dict(img=image, labels=_labels(height, width, seed), label_specs=SPECS)


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10), (6, 5)])
@pytest.mark.parametrize("name", EXACT)
def test_shifts_by_integer_pixels_are_exact(name, size):
    arguments, move, turn = EXACT[name]
    if arguments.get("angle") == 90:
        size = (size[0], size[0])
    sample, warp = _sample(*size), make_warp(size, size, **arguments)
    image = warp.apply(sample["img"], cv2.INTER_LINEAR, 0)
    np.testing.assert_array_equal(image, move(sample["img"]))
    for task, label in sample["labels"].items():
        found = SPECS[task].warp(label, warp)
        assert found.dtype == label.dtype
        if task == "normals":
            expected = np.stack(turn(*np.moveaxis(move(label), -1, 0)), -1)
            np.testing.assert_allclose(found, expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, move(label))


@pytest.mark.parametrize("target", [(14, 20), (21, 10)])
def test_integer_upscale_repeats_pixels(target):
    for task, label in _labels(7, 10).items():
        if task != "normals":
            expected = label.repeat(target[0] // 7, axis=0).repeat(target[1] // 10, axis=1)
            warped = SPECS[task].warp(label, make_warp((7, 10), target))
            np.testing.assert_array_equal(warped, expected)
            np.testing.assert_array_equal(SPECS[task].resize(label, target), expected)


def test_new_pixels_carry_no_label():
    # Halving about the centre of an 8 x 8 frame leaves a border of two pixels.
    warp = make_warp((8, 8), (8, 8), scale=0.5)
    border = np.ones((8, 8), bool)
    border[2:6, 2:6] = False
    for task, label in _labels(8, 8).items():
        found = SPECS[task].warp(label, warp)
        assert (found[border] == NO_LABEL[task]).all(), task
        assert (found[~border] != NO_LABEL[task]).reshape(16, -1).any(-1).all(), task
    image = warp.apply(np.full((8, 8, 3), 9, np.uint8), cv2.INTER_LINEAR, (1, 2, 3))
    assert (image == np.where(border[..., None], (1, 2, 3), 9)).all()


def test_random_warps_keep_labels_exact_and_on_the_image():
    rng = np.random.default_rng(2)
    source, labels = (13, 17), _labels(13, 17)
    for _ in range(20):
        target = tuple(rng.integers(9, 30, 2))
        warp = make_warp(
            source, target, bool(rng.integers(2)), rng.uniform(-180, 180), rng.uniform(0.5, 2)
        )
        for task in ("semseg", "saliency", "edge", "depth"):
            label, ignore = labels[task], NO_LABEL[task]
            found = SPECS[task].warp(label, warp)
            assert found.shape == target
            assert set(np.unique(found)) <= {*np.unique(label), ignore}
            painted = np.repeat(label[..., None], 3, -1)
            painted = warp.apply(painted, cv2.INTER_NEAREST, (ignore,) * 3)
            np.testing.assert_array_equal(found, painted[..., 0])


def test_scene_rotated_by_hand():
    # Output pixel p shows the source at c + R (p - c); y points down.
    scene, theta = render_scene(0, "train", 0, 48), np.deg2rad(20)
    warp = make_warp((48, 48), (48, 48), angle=20)
    found = SPECS["normals"].warp(scene.normals, warp)
    depth = SPECS["depth"].warp(scene.depth, warp)
    cos, sin, checked = np.cos(theta), np.sin(theta), 0
    for y, x in [(24, 24), (10, 20), (35, 14), (20, 38), (30, 30), (14, 33), (38, 25)]:
        right, up = x - 23.5, 23.5 - y
        row, column = 23.5 + sin * right - cos * up, 23.5 + cos * right + sin * up
        assert depth[y, x] == scene.depth[round(row), round(column)]
        patch = scene.normals[int(row) : int(row) + 2, int(column) : int(column) + 2]
        if np.ptp(patch.reshape(4, 3), axis=0).max() < 1e-3:  # away from edges
            (nx, ny, nz), checked = patch[0, 0], checked + 1
            expected = (cos * nx - sin * ny, sin * nx + cos * ny, nz)
            np.testing.assert_allclose(found[y, x], expected, atol=2e-3)
    assert checked >= 3


def test_scene_flipped_shows_mirrored_vectors():
    scene = render_scene(0, "train", 1, 48)
    labels = dict(normals=scene.normals.copy())
    sample = dict(img=scene.image, labels=labels, label_specs=SPECS)
    found = RandomWarp((48, 48), flip_prob=1.0, rotate=(0, 0), scale=(1, 1))(sample)
    np.testing.assert_array_equal(found["img"], scene.image[:, ::-1])
    for y, x in [(5, 5), (20, 3), (24, 40), (40, 11)]:
        expected = scene.normals[y, 47 - x] * (-1, 1, 1)
        np.testing.assert_allclose(found["labels"]["normals"][y, x], expected, atol=1e-6)


TRANSFORM_CASES = [
    dict(type="RandomWarp", size=(20, 15)),
    dict(type="Resize", scale=(30, 11)),
    dict(type="RandomResize", scale=(40, 30), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomFlip", prob=1.0),
    dict(type="RandomCrop", crop_size=(7, 9)),
    dict(type="Pad", size=(32, 24)),
]


@pytest.mark.parametrize("cfg", TRANSFORM_CASES, ids=lambda cfg: cfg["type"])
def test_transform_moves_every_label(cfg):
    sample = _sample(12, 17)
    labels = dict(sample["labels"])
    sample["img"] = np.repeat(labels["semseg"][..., None], 3, -1)
    found = TRANSFORMS.build(cfg)(sample)
    size = found["img"].shape[:2]
    assert size == found.get("img_shape", size)[:2]
    assert size != (12, 17) or cfg["type"] == "RandomFlip"
    for task, label in found["labels"].items():
        assert label.shape[:2] == size, task
        assert label.dtype == labels[task].dtype
        assert label.shape != labels[task].shape or (label != labels[task]).any()
    if cfg["type"] in ("RandomFlip", "RandomCrop", "Pad"):  # no interpolation in the image
        semseg = found["labels"]["semseg"]
        np.testing.assert_array_equal(np.where(semseg == 255, 0, semseg), found["img"][..., 0])


@pytest.fixture
def files(tmp_path):
    """A sample as the dataset hands it to its pipeline."""
    sample = _sample(12, 17)
    Image.fromarray(sample["img"]).save(tmp_path / "picture.png")
    for task in ("semseg", "normals"):
        values = SPECS[task].to_tensor(sample["labels"][task]).numpy()
        Image.fromarray(SPECS[task].encode(values)).save(tmp_path / f"{task}.png")
    return dict(
        img_path=str(tmp_path / "picture.png"),
        label_paths={task: str(tmp_path / f"{task}.png") for task in ("semseg", "normals")},
        label_specs=SPECS,
    )


def _run(files, *middle):
    steps = ["LoadImageFromFile", *middle, "PackMultiTaskInputs"]
    return Compose([dict(type=x) if isinstance(x, str) else x for x in steps])(files)


def test_pipeline_of_mmseg_takes_all_labels_along(files):
    packed = _run(
        files,
        "LoadLabels",
        dict(type="RandomResize", scale=(40, 30), ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=(11, 13), cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
        dict(type="Pad", size=(24, 24)),
    )
    assert packed["inputs"].shape == (3, 24, 24)
    sample = packed["data_samples"]
    assert sample.gt_semseg.data.shape == (1, 24, 24)
    assert sample.gt_normals.data.shape == (3, 24, 24)
    assert sample.label("depth") is None
    assert sample.ori_shape == (12, 17)
    assert (sample.label("semseg")[:, 11:] == 255).all()


def test_labels_loaded_after_the_resize_keep_their_size(files):
    packed = _run(files, dict(type="Resize", scale=(34, 34)), "LoadLabels")
    assert packed["inputs"].shape == (3, 34, 34)
    assert packed["data_samples"].gt_semseg.data.shape == (1, 12, 17)


@pytest.mark.parametrize("cfg", TRANSFORM_CASES, ids=lambda cfg: cfg["type"])
def test_moving_labels_of_another_size_is_refused(files, cfg):
    with pytest.raises(InputError, match=r"picture\.png.*'semseg'.*LoadLabels must come before"):
        _run(files, dict(type="Resize", scale=(34, 34)), "LoadLabels", cfg)


def test_labels_left_behind_are_refused(files):
    def crop_one(results):
        return results | dict(labels=dict(normals=results["labels"]["normals"][:5]))

    with pytest.raises(InputError, match=r"picture\.png.*'semseg'.*\(12, 17\).*\(8, 8\)"):
        _run(files, "LoadLabels", dict(type="CenterCrop", crop_size=8))
    with pytest.raises(InputError, match=r"picture\.png.*'normals'"):
        _run(files, dict(type="Resize", scale=(34, 34)), "LoadLabels", crop_one)


def test_impossible_arguments_are_refused():
    for bad in (dict(scale=(1.2, 0.8)), dict(scale=(0, 1)), dict(rotate=(5, -5))):
        with pytest.raises(InputError, match="RandomWarp"):
            RandomWarp(**bad)
    with pytest.raises(InputError, match="vertical"):
        TRANSFORMS.build(dict(type="RandomFlip", prob=0.5, direction="vertical"))


@pytest.mark.parametrize(
    "cfg",
    [
        dict(type="RandomFlip", prob=1.0),
        dict(type="RandomCrop", crop_size=(2, 2)),
        dict(type="RandomWarp", size=(4, 4)),
    ],
)
def test_labels_are_not_loaded_after_a_move(cfg):
    results = dict(img=np.zeros((4, 4, 3), np.uint8), img_shape=(4, 4), ori_shape=(4, 4))
    results.update(label_specs={}, label_paths={})
    moved = TRANSFORMS.build(cfg)(dict(results))
    with pytest.raises(
        InputError, match="must come before geometric transforms except Resize and Pad"
    ):
        TRANSFORMS.build(dict(type="LoadLabels"))(moved)


def test_labels_loaded_after_padding_keep_their_size(files):
    packed = _run(files, dict(type="Pad", size=(20, 16)), "LoadLabels")
    sample = packed["data_samples"]
    assert packed["inputs"].shape == (3, 16, 20)
    assert sample.gt_semseg.data.shape == (1, 12, 17)
    assert sample.img_shape == sample.label_shape == (12, 17)
    with pytest.raises(InputError, match="Resize must come before Pad"):
        _run(files, dict(type="Pad", size=(20, 16)), dict(type="Resize", scale=(9, 9)))


@exact_interpolation
@pytest.mark.parametrize("target", [(5, 40), (24, 9), (12, 17)])
def test_nearest_resize_takes_existing_pixels(target):
    sample = _sample(12, 17)
    labels = dict(sample["labels"])
    resize = TRANSFORMS.build(dict(type="Resize", scale=target[::-1], nearest_labels=True))
    found = resize(sample)["labels"]
    rows = np.int64((np.arange(target[0]) + 0.5) * 12 / target[0])
    columns = np.int64((np.arange(target[1]) + 0.5) * 17 / target[1])
    for task, label in labels.items():
        np.testing.assert_array_equal(found[task], label[rows][:, columns])


def test_a_size_of_an_option_keeps_the_ratio():
    resize = TRANSFORMS.build(dict(type="Resize", scale=[40, 30], keep_ratio=True))  # a list
    for size, expected in (((60, 80), (30, 40)), ((90, 60), (40, 27))):
        assert resize(dict(img=np.zeros((*size, 3), np.uint8)))["img"].shape[:2] == expected
