"""The other common augmentation: random scale, crop, flip, colours, padding."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from vmt_mm.apis import load_config
from vmt_mm.datasets import MultiTaskDataset, SeededIndex
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS
from vmt_mm.rendering import render_scene
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import write_image

CONFIG = Path(__file__).parents[2] / "configs/_base_/datasets/pascal_context_recipe-b.py"
RUN = "_base_ = ['{config}', '{root}/models/swin_mlp.py', '{root}/default_runtime.py']\n"
TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=8),
    human_parts=dict(type="Segmentation", num_classes=7),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    edge=dict(type="Edge"),
    depth=dict(type="Depth"),
)
NO_LABEL = dict(semseg=255, human_parts=255, saliency=255, edge=255, normals=0, depth=0)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("vmt_mm")
    np.random.seed(0)


def _sample(height=20, width=30, seed=0, **tasks):
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(height, width, 3)).astype(np.float32)
    labels = dict(
        semseg=rng.integers(0, 8, (height, width), dtype=np.uint8),
        human_parts=rng.integers(0, 7, (height, width), dtype=np.uint8),
        saliency=rng.integers(0, 2, (height, width), dtype=np.uint8),
        normals=normals / np.linalg.norm(normals, axis=-1, keepdims=True),
        edge=rng.integers(0, 2, (height, width), dtype=np.uint8),
        depth=rng.uniform(1, 9, (height, width)).astype(np.float32),
    )
    specs = {name: task.label for name, task in build_tasks({**TASKS, **tasks}).items()}
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return dict(img=image, labels=labels, label_specs=specs, img_shape=image.shape[:2])


def _apply(sample, **cfg):
    copy = dict(sample, labels={k: v.copy() for k, v in sample["labels"].items()})
    return TRANSFORMS.build(cfg)(copy)


def test_crop_moves_every_label_alike():
    sample = _sample()
    boxes = set()
    for _ in range(20):
        found = _apply(sample, type="RandomCrop", size=(11, 8))
        window = np.lib.stride_tricks.sliding_window_view(sample["img"], (8, 11), axis=(0, 1))
        same = (window.transpose(0, 1, 3, 4, 2) == found["img"]).all(axis=(2, 3, 4))
        ((top, left),) = np.argwhere(same)
        boxes.add((top, left))
        for name, label in sample["labels"].items():
            expected = label[top : top + 8, left : left + 11]
            np.testing.assert_array_equal(found["labels"][name], expected)
    assert len(boxes) > 10


def test_flip_mirrors_every_label():
    sample = _sample()
    found = _apply(sample, type="RandomFlip", prob=1.0)
    for name, label in sample["labels"].items():
        sign = np.float32([-1, 1, 1]) if name == "normals" else label.dtype.type(1)
        np.testing.assert_array_equal(found["labels"][name], label[:, ::-1] * sign)


def test_padding_is_below_and_right_and_carries_no_label():
    sample = _sample()
    found = _apply(sample, type="Pad", size=(40, 25), pad_val=dict(img=(1, 2, 3)))
    outside = np.ones((25, 40), bool)
    outside[:20, :30] = False
    assert (found["img"][outside] == (1, 2, 3)).all()
    for name, label in sample["labels"].items():
        assert (found["labels"][name][outside] == NO_LABEL[name]).all()
        np.testing.assert_array_equal(found["labels"][name][:20, :30], label)


def _nearest(source, target):
    """Index of each target pixel's nearest source pixel, and a mask without ties."""
    position = (np.arange(target) + 0.5) * source / target
    return np.int64(position), np.abs(position - np.rint(position)) > 1e-3


def test_scale_is_drawn_and_keeps_the_shape():
    sample, ratios = _sample(), []
    for _ in range(200):
        found = _apply(
            sample, type="RandomResize", scale=[30, 20], ratio_range=(0.5, 2.0), keep_ratio=True
        )
        height, width = found["img"].shape[:2]
        ratios.append(width / 30)
        assert abs(height - width * 20 / 30) <= 1
        (rows, y), (columns, x) = _nearest(20, height), _nearest(30, width)
        for name, label in sample["labels"].items():
            if name != "normals":  # interpolated, see below
                expected = label[rows][:, columns]
                np.testing.assert_array_equal(found["labels"][name][y][:, x], expected[y][:, x])
        normals = cv2.resize(sample["labels"]["normals"], (width, height))
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        np.testing.assert_allclose(found["labels"]["normals"], normals, atol=1e-5)
    assert 0.5 <= min(ratios) < 0.6
    assert 1.9 < max(ratios) <= 2.0
    assert 1.1 < np.mean(ratios) < 1.4


@pytest.mark.parametrize("divides", [False, True])
def test_depth_follows_a_random_scale_where_told(divides):
    sample = _sample(depth=dict(type="Depth", zoom_divides=divides))
    sample["labels"]["depth"][:] = 6.0
    cfg = dict(type="RandomResize", scale=(300, 200), ratio_range=(1.5, 1.5), keep_ratio=True)
    found = _apply(sample, **cfg)["labels"]["depth"]
    assert np.unique(found) == pytest.approx(4.0 if divides else 6.0)
    # a resize to a fixed size does not change depth
    found = _apply(sample, type="Resize", scale=(300, 200))["labels"]["depth"]
    assert np.unique(found) == 6.0


def _largest_share(label):
    counts = np.bincount(label[label != 255], minlength=1)
    return counts.max() / max(1, counts.sum())


def test_no_class_fills_a_crop():
    # Class 1 fills the left three quarters of the image.
    sample = _sample(40, 40)
    sample["labels"]["semseg"][:] = 2
    sample["labels"]["semseg"][:, :30] = 1
    sample["labels"]["semseg"][:10] = 255
    sample["labels"]["human_parts"][:] = 0  # no person

    def shares(**more):
        crops = [_apply(sample, type="RandomCrop", size=(20, 20), **more) for _ in range(100)]
        return np.array([_largest_share(crop["labels"]["semseg"]) for crop in crops])

    # 21 boxes side by side; those that start at 16..20 have less than 75 % of class 1
    assert (shares() >= 0.75).mean() > 0.6
    assert (shares(cat_max_ratio=0.75) >= 0.75).mean() > 0.6  # no crop satisfies all tasks
    # ten attempts fail with probability (16 / 21) ** 10 = 0.07
    assert (shares(cat_max_ratio=0.75, cat_tasks=["semseg"]) >= 0.75).mean() < 0.15
    assert (shares(cat_max_ratio=0.75, cat_tasks=["elsewhere"]) >= 0.75).mean() > 0.6
    del sample["labels"]["human_parts"]
    assert (shares(cat_max_ratio=0.75) >= 0.75).mean() < 0.15


def test_colours_leave_labels_alone():
    sample = _sample()
    before = {name: label.copy() for name, label in sample["labels"].items()}
    found = [_apply(sample, type="PhotoMetricDistortion") for _ in range(5)]
    assert all(f["img"].shape == (20, 30, 3) and f["img"].dtype == np.uint8 for f in found)
    assert len({f["img"].tobytes() for f in found}) > 2
    for f in found:
        assert f["labels"].keys() == before.keys()
        for name, label in before.items():
            assert f["labels"][name].dtype == label.dtype
            np.testing.assert_array_equal(f["labels"][name], label)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "needs crop_size .* or size"),
        (dict(crop_size=4, size=(4, 4)), "needs crop_size .* or size"),
        (dict(size=(4, 4), cat_max_ratio=0), "`cat_max_ratio` must be in"),
        (dict(size=(4, 4), cat_max_ratio=0.5, cat_tasks=["depth"]), r"\['depth'\] have no classes"),
    ],
)
def test_impossible_crops_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        _apply(_sample(), type="RandomCrop", **options)


def test_crop_size_is_mmsegs_order():
    assert _apply(_sample(), type="RandomCrop", crop_size=[8, 11])["img"].shape == (8, 11, 3)
    assert _apply(_sample(), type="RandomCrop", crop_size=9)["img"].shape == (9, 9, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two scenes in the folder layout."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        scene = render_scene(0, "train", number, 48)
        write_image(folder / "images" / f"{number}.png", scene.image)
        for name, task in build_tasks(TASKS).items():
            values = getattr(scene, name)
            if values is None:
                (folder / name).mkdir(exist_ok=True)
                continue
            if name in ("saliency", "edge"):
                values = values // 255
            tensor = task.label.to_tensor(values).numpy()
            write_image(folder / name / f"{number}.png", task.label.encode(tensor))
    (folder / "splits").mkdir()
    (folder / "splits/train.txt").write_text("0\n1\n")
    return folder


def _dataset(root, tmp_path, size=(40, 32)):
    base = CONFIG.parents[1]
    path = tmp_path / "own.py"
    path.write_text(RUN.format(config=CONFIG, root=base) + "total_batch_size = 2\n")
    options = dict(image_size=size, data_root=str(root), tasks=dict(TASKS, _delete_=True))
    cfg = load_config(path, options)
    pipeline = cfg.train_dataloader.dataset.pipeline
    return cfg, MultiTaskDataset(str(root), TASKS, pipeline=pipeline)


def test_the_fragment_builds_and_repeats_its_draws(root, tmp_path):
    cfg, dataset = _dataset(root, tmp_path)
    test_pipeline = cfg.test_dataloader.dataset.pipeline
    assert [tuple(s.scale) for s in test_pipeline if s.type == "Resize"] == [(40, 32)]
    inputs = set()
    for index in range(2):
        for epoch in range(4):
            draw = SeededIndex(index, (7, epoch, index))
            np.random.seed(epoch + 100)
            one = dataset[draw]
            np.random.seed(5)
            two = dataset[draw]
            assert torch.equal(one["inputs"], two["inputs"])
            assert one["inputs"].shape == (3, 32, 40)
            for name in TASKS:
                label = one["data_samples"].label(name)
                if label is None:
                    assert name == "human_parts"
                    continue
                assert label.shape[1:] == (32, 40)
                assert torch.equal(label, two["data_samples"].label(name))
            inputs.add(one["inputs"].numpy().tobytes())
    assert len(inputs) == 8


def test_image_and_labels_stay_together(root, tmp_path):
    # Apart from colours, the pipeline treats an image painted with a label like the label.
    cfg, _ = _dataset(root, tmp_path, (48, 48))
    steps = [
        step
        for step in cfg.train_dataloader.dataset.pipeline
        if step.type in ("RandomCrop", "RandomFlip", "Pad")
    ]
    assert len(steps) == 3
    pipeline = Compose([dict(step) for step in steps])
    for seed in range(10):
        sample = _sample(60, 44, seed)
        sample["img"] = np.repeat(sample["labels"]["semseg"][..., None], 3, -1)
        found = pipeline(sample)
        semseg = found["labels"]["semseg"]
        inside = semseg != 255
        assert inside.sum() == 48 * 44
        np.testing.assert_array_equal(found["img"][inside][:, 0], semseg[inside])
