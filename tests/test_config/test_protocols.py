"""Evaluation protocols: how they change a config, and which pixels are compared."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope

from vmt_mm.apis import load_config
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.monitors import rule_faults
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS, EVALUATOR, MODELS
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import write_image

PASCAL = Path(__file__).parents[2] / "configs/vmt/vmt_swin-t_pascal.py"
LOADERS = ("val_dataloader", "test_dataloader")
#: (height, width) of the images; the network's input is 64 x 64.
SIZES = [(40, 56), (60, 36), (64, 64)]
SIDE = 64
TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=5),
    human_parts=dict(type="Segmentation", num_classes=3, skip_background=True),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
    edge=dict(type="Edge"),
    depth=dict(type="Depth"),
)
#: Value of a padded pixel before normalisation, BGR: ImageNet's mean.
MEAN = (104, 116, 124)


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("vmt_mm")


def _load(protocol, training=False, **options):
    return load_config(PASCAL, dict(protocol=protocol, **options), training=training)


def _kinds(cfg, loader):
    return [step.type for step in cfg[loader].dataset.pipeline]


def test_pipelines():
    for loader in LOADERS:
        assert _kinds(_load("A"), loader)[1:3] == ["Resize", "LoadLabels"]
        b, c = _load("B"), _load("C", image_size=(64, 32))
        assert _kinds(b, loader)[1:3] == ["LoadLabels", "Resize"]
        assert _kinds(c, loader)[1:3] == ["Pad", "LoadLabels"]
        assert b[loader].dataset.pipeline[2].scale == (512, 512)
        assert c[loader].dataset.pipeline[1].size == (64, 32)
    assert _load("B").train_dataloader == _load("A").train_dataloader


def test_one_line_in_a_file_does_it(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(f"_base_ = {str(PASCAL)!r}\nprotocol = 'C'\n")
    cfg = load_config(path, training=False)
    assert _kinds(cfg, "test_dataloader")[1:3] == ["Pad", "LoadLabels"]
    # a config that a run has dumped can be used again
    cfg.dump(str(tmp_path / "dumped.py"))
    again = load_config(tmp_path / "dumped.py", training=False)
    assert again.test_dataloader == cfg.test_dataloader
    assert again.test_evaluator == cfg.test_evaluator


def test_options_of_tasks_follow_everywhere():
    cfg = _load("C")
    for tasks in (cfg.model.tasks, cfg.test_dataloader.dataset.tasks, cfg.test_evaluator.tasks):
        saliency = build_tasks(tasks)["saliency"]
        assert saliency.primary_metric == "maxF"
        metric = saliency.metric()
        assert (metric["beta_squared"], metric["average"]) == (0.3, "set")
        assert metric["f_thresholds"] == pytest.approx(np.arange(0.05, 0.96, 0.05))
        assert metric["thresholds"] is None  # the Jaccard's do not change
    assert _load("B").model.tasks == _load("A").model.tasks
    own = {"tasks.saliency.beta_squared": 1.0}
    assert _load("C", **own).model.tasks.saliency.beta_squared == 1.0


def test_no_delta_where_a_task_has_another_metric():
    assert _load("B").test_evaluator.reference == _load("A").test_evaluator.reference
    assert _load("C").val_evaluator.reference is None
    best = {"default_hooks.checkpoint.save_best": "saliency/maxF"}
    assert list(rule_faults(_load("C", training=True, **best), training=True)) == []
    kept = _load("C", **{"tasks.saliency.primary_metric": "mIoU"})
    assert kept.test_evaluator.reference == _load("A").test_evaluator.reference
    # a single task has the Delta of its metric
    assert _load("C", task="normals").test_evaluator.reference == dict(normals=17.97)
    assert _load("C", task="saliency").test_evaluator.reference is None
    # a user who sets the metric also sets its reference scores
    mine = dict(semseg=60.0, human_parts=60.0, saliency=80.0, normals=15.0)
    options = {"tasks.saliency.primary_metric": "maxF", "reference": mine}
    assert _load("C", **options).test_evaluator.reference == mine


@pytest.mark.parametrize("best", ["delta", ["semseg/mIoU", "delta"]])
def test_save_best_needs_a_delta_that_exists(best):
    # tools that only read a config or the data accept it
    option = {"default_hooks.checkpoint.save_best": best}
    message = "delta is missing; set default_hooks.checkpoint.save_best"
    with pytest.raises(InputError, match=message):
        check_inputs(load_config(PASCAL, {"protocol": "C", **option}), training=True)
    for protocol, training in (("C", False), ("B", True), ("A", True)):
        with pytest.raises(InputError) as caught:  # data and weights are missing
            check_inputs(load_config(PASCAL, {"protocol": protocol, **option}), training)
        assert message not in str(caught.value)


@pytest.mark.parametrize("changed", ["B", "C"])
def test_a_dumped_config_can_be_changed_to_another_protocol(tmp_path, changed):
    path = tmp_path / "dumped.py"
    _load(changed).dump(str(path))
    for name in ("A", "B", "C"):
        again = load_config(path, dict(protocol=name), training=False)
        assert again.test_dataloader == _load(name).test_dataloader
        assert again.model == _load(name).model
        assert again.test_evaluator == _load(name).test_evaluator


def test_a_custom_pipeline_gets_the_nearest_labels(tmp_path):
    path = tmp_path / "own.py"
    steps = "LoadImageFromFile", "LoadLabels", "Resize", "PackMultiTaskInputs"
    pipeline = [
        dict(type=step, **(dict(scale=(64, 64)) if step == "Resize" else {})) for step in steps
    ]
    path.write_text(
        f"_base_ = {str(PASCAL)!r}\n"
        + "".join(f"{loader} = dict(dataset=dict(pipeline={pipeline}))\n" for loader in LOADERS)
    )
    for loader in LOADERS:
        found = load_config(path, dict(protocol="B"), training=False)[loader].dataset.pipeline
        assert [step.type for step in found] == list(steps)
        assert found[2] == dict(type="Resize", scale=(64, 64), nearest_labels=True)


def test_impossible_protocols_are_refused(tmp_path):
    for wrong in ("D", ["B", "C"], 1):
        with pytest.raises(InputError, match=r"protocol must be one of \['A', 'B', 'C'\], got"):
            _load(wrong)
    path = tmp_path / "own.py"
    path.write_text(
        f"_base_ = {str(PASCAL)!r}\n"
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile')]))\n"
    )
    with pytest.raises(InputError, match="'B' needs a test pipeline.*test_dataloader"):
        load_config(path, dict(protocol="B"), training=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of several sizes with labels of every task."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        normals = rng.normal(size=(3, *size)) * (rng.random(size) > 0.1)
        labels = dict(
            semseg=rng.integers(0, 5, (1, *size)),
            human_parts=rng.integers(0, 3, (1, *size)),
            saliency=rng.integers(0, 2, (1, *size)),
            normals=normals,
            edge=rng.random((1, *size)) < 0.1,
            depth=rng.uniform(0.5, 9, (1, *size)),
        )
        for name, task in build_tasks(TASKS).items():
            image = task.label.encode(np.float32(labels[name]))
            write_image(folder / name / f"{number}.png", image)
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        write_image(folder / "images" / f"{number}.png", image)
    (folder / "splits").mkdir()
    for split in ("train", "val"):
        (folder / f"splits/{split}.txt").write_text("0\n1\n2\n")
    return folder


def _run(root, protocol):
    """Config, model and the predictions for all images in one batch."""
    options = {
        "data_root": str(root),
        "image_size": (SIDE, SIDE),
        "tasks": dict(TASKS, _delete_=True),
        "reference": None,
        "pretrained": None,
        "allow_random_backbone": True,
        "model.backbone.arch": "nano",
        "model.head.channels": 8,
        "test_dataloader.dataset.type": "MultiTaskDataset",
        "protocol": protocol,
    }
    cfg = load_config(PASCAL, options, training=False)
    model = MODELS.build(cfg.model)
    model.init_weights()
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    with torch.no_grad():
        samples = model.eval().test_step(pseudo_collate([dataset[i] for i in range(len(SIZES))]))
    return cfg, model, samples


def _forward(model, image):
    """Logits of one BGR image (64, 64, 3)."""
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    values = ((image[..., ::-1] - mean) / std).transpose(2, 0, 1)
    with torch.no_grad():
        logits = model.logits(torch.tensor(values[None], dtype=torch.float32))
    resize = torch.nn.functional.interpolate
    return {k: resize(v, size=(SIDE, SIDE), mode="bilinear") for k, v in logits.items()}


def _scores(cfg, samples):
    evaluator = EVALUATOR.build(cfg.test_evaluator)
    evaluator.process(samples)
    return evaluator.evaluate(len(samples))


def _naive_iou(samples):
    """Mean IoU of semseg, percent, by masks of all pixels."""
    p, g = (
        np.concatenate([get(sample).numpy().ravel() for sample in samples])
        for get in (lambda s: s.prediction("semseg"), lambda s: s.label("semseg"))
    )
    masks = [(p == c, g == c) for c in range(5)]
    return 100 * np.mean([(a & b).sum() / (a | b).sum() for a, b in masks])


def _naive_rmse(samples):
    """Root mean square error of depth in metres."""
    errors = [sample.prediction("depth") - sample.label("depth") for sample in samples]
    return float(np.sqrt(np.mean(np.concatenate([e.numpy().ravel() for e in errors]) ** 2)))


def _native(root, model, number):
    image = cv2.imread(str(root / f"images/{number}.png"))
    return image, {
        name: task.label.decode(root / name / f"{number}.png") for name, task in model.tasks.items()
    }


def _expect(model, sample, label, logits):
    for name, task in model.tasks.items():
        found = sample.label(name)
        torch.testing.assert_close(found, task.label.to_tensor(label[name]), rtol=0, atol=0)
        expected = task.to_prediction(logits[name])[0]
        assert sample.prediction(name).shape[1:] == found.shape[1:]
        different = (sample.prediction(name).double() - expected.double()).abs() > 1e-4
        assert different.double().mean() < 1e-3  # classes may be equally likely


def test_a_compares_at_the_native_size(root):
    cfg, model, samples = _run(root, "A")
    for number, sample in enumerate(samples):
        image, label = _native(root, model, number)
        logits = _forward(model, cv2.resize(image, (SIDE, SIDE)))
        size = image.shape[:2]
        resize = torch.nn.functional.interpolate
        native = {name: resize(v, size, mode="bilinear") for name, v in logits.items()}
        _expect(model, sample, label, native)
    scores = _scores(cfg, samples)
    assert scores["semseg/mIoU"] == pytest.approx(_naive_iou(samples), abs=1e-4)


def test_b_compares_at_the_networks_size(root):
    cfg, model, samples = _run(root, "B")
    for number, sample in enumerate(samples):
        image, label = _native(root, model, number)
        rows, columns = (np.int64((np.arange(SIDE) + 0.5) * n / SIDE) for n in image.shape[:2])
        nearest = {name: values[rows][:, columns] for name, values in label.items()}
        _expect(model, sample, nearest, _forward(model, cv2.resize(image, (SIDE, SIDE))))
    assert all(sample.label("semseg").shape == (1, SIDE, SIDE) for sample in samples)
    scores = _scores(cfg, samples)
    assert scores["semseg/mIoU"] == pytest.approx(_naive_iou(samples), abs=1e-4)
    assert scores["depth/rmse"] == pytest.approx(_naive_rmse(samples), rel=1e-5)


def test_c_compares_native_pixels_of_a_padded_image(root):
    cfg, model, samples = _run(root, "C")
    for number, sample in enumerate(samples):
        image, label = _native(root, model, number)
        height, width = image.shape[:2]
        padded = np.tile(np.uint8(MEAN), (SIDE, SIDE, 1))
        padded[:height, :width] = image
        logits = _forward(model, padded)
        _expect(model, sample, label, {k: v[..., :height, :width] for k, v in logits.items()})
    scores = _scores(cfg, samples)
    true = {t: [0, 0, 0] for t in np.arange(1, 20) * 0.05}
    for sample in samples:
        p, g = sample.prediction("saliency").numpy(), sample.label("saliency").numpy() == 1
        for t, sums in true.items():
            for i, mask in enumerate([(p > t) & g, p > t, g]):
                sums[i] += mask.sum()
    best = max(1.3 * a / (0.3 * c + b) for a, b, c in true.values())
    assert scores["saliency/maxF"] == pytest.approx(100 * best, abs=1e-4)


def test_images_larger_than_the_padding_are_not_cropped(root):
    cfg = _load("C", data_root=str(root), image_size=(48, 48))
    dataset = cfg.test_dataloader.dataset
    dataset.update(type="MultiTaskDataset", tasks=TASKS)
    shapes = [tuple(item["inputs"].shape[1:]) for item in DATASETS.build(dataset)]
    assert shapes == [(48, 56), (60, 48), (64, 64)]
