"""A training over two datasets with different labels: losses, gradients, resuming."""

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from halves import FIRST, SECOND, halves
from PIL import Image
from run_hooks import At, Killed, kill
from small_runs import later, small_config

from vmt_mm.apis import load_config
from vmt_mm.registry import DATASETS, MODELS

#: Four scenes and eight: three batches of 4, half from each dataset by the sampler.
PARTS = ((0, 4), (1, 2))
BALANCED = {"train_dataloader.sampler.balance": "datasets", "train_cfg.val_interval": 9}
EVERY_2 = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 2}


@pytest.fixture(scope="module")
def options(scenes):
    return {**halves(scenes, parts=PARTS), **BALANCED, **EVERY_2, "train_cfg.max_epochs": 3}


def _first_half(name):
    """Whether a scene belongs to the first dataset: ids 0, 4, 8, 12."""
    return int(name.split("_")[1]) % 4 == 0


def test_every_task_learns_and_a_resumed_run_is_the_same(small_run, options, tmp_path):
    got_gradient, trained = set(), set()

    def watch(runner):
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad:
                trained.add(name)
                parameter.register_hook(
                    lambda grad, name=name: got_gradient.add(name) if grad.any() else None
                )

    full_run = small_run(options, At("before_train", None, watch), folder=tmp_path / "full").train()
    assert sorted(full_run.losses) == list(range(1, 10))
    for task in (*FIRST, *SECOND):
        own = {name for name in trained if f".{task}" in name}
        assert {name.split(".")[0] for name in own} == {"backbone", "heads"}
        assert max(losses[f"loss_{task}"] for losses in full_run.losses.values()) > 0
    assert trained - got_gradient == set()
    for epoch in range(3):
        images = sum((full_run.record.images[3 * epoch + step] for step in (1, 2, 3)), [])
        first = [name for name in images if _first_half(name)]
        assert (len(first), len(images)) == (6, 12)
        assert len(set(first)) == 4
    drawn = Counter(sum(full_run.record.images.values(), []))
    for first in (True, False):  # 18 draws per dataset, equally often per scene, up to one
        times = [count for name, count in drawn.items() if _first_half(name) == first]
        assert (len(times), sum(times), max(times) - min(times)) == (4 if first else 8, 18, 1)

    # stopped within the second epoch
    run = small_run(options, At("after_train_iter", 5, kill, priority="LOWEST"), workers=1)
    with pytest.raises(Killed):
        run.train()
    resumed = small_run({**options, "resume": True}).train()
    assert resumed.losses == later(full_run.losses, 4)
    assert resumed.record.images == later(full_run.record.images, 4)


@pytest.fixture
def clashing(scenes, tmp_path):
    """Two datasets that both have a folder ``semseg``: 8 classes, and 2 classes of the second."""
    for name, folders in dict(first=["semseg", "normals"], second=["saliency"]).items():
        (tmp_path / name).mkdir()
        for folder in ("images", "splits", *folders):
            (tmp_path / name / folder).symlink_to(scenes / folder)
    (tmp_path / "second/semseg").mkdir()
    for file in (scenes / "semseg").iterdir():
        classes = np.array(Image.open(file))
        Image.fromarray(np.uint8(classes > 0)).save(tmp_path / "second/semseg" / file.name)
    (tmp_path / "second/splits").unlink()
    (tmp_path / "second/splits").mkdir()
    for split in ("train", "val"):  # fewer images than the first
        ids = (scenes / f"splits/{split}.txt").read_text().split()
        (tmp_path / f"second/splits/{split}.txt").write_text("\n".join(ids[:3]))
    return tmp_path


def test_tasks_of_folders_with_one_name(clashing, small_run, tmp_path):
    cfg = small_config(clashing / "first")
    names = dict(first=["rooms", "normals"], second=["objects", "saliency"])
    cfg.tasks = dict(
        rooms=dict(type="Segmentation", num_classes=8, folder="semseg"),
        objects=dict(type="Segmentation", num_classes=2, folder="semseg"),
        normals=dict(type="Normals"),
        saliency=dict(type="Saliency"),
    )
    cfg.reference = cfg.val_evaluator.reference = cfg.test_evaluator.reference = None
    for owner in (cfg.model, cfg.model.backbone, cfg.val_evaluator, cfg.test_evaluator):
        owner.tasks = cfg.tasks
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        one = dict(cfg[loader].dataset, type="MultiTaskDataset")
        for key in ("render", "metainfo"):
            one.pop(key, None)
        members = [
            dict(
                one,
                data_root=str(clashing / folder),
                tasks={task: cfg.tasks[task] for task in tasks},
                id_prefix=folder,
            )
            for folder, tasks in names.items()
        ]
        cfg[loader].dataset = dict(type="ConcatDataset", datasets=members)
    options = {
        "train_dataloader.sampler.balance": "datasets",
        "train_dataloader.sampler.length": 4,
        "train_cfg.max_epochs": 1,
        "default_hooks.checkpoint.save_best": "rooms/mIoU",
    }
    run = small_run(options, cfg=cfg).train()
    assert list(run.losses) == [1]
    assert all(run.losses[1][f"loss_{task}"] > 0 for task in cfg.tasks)
    ((_, scores),) = run.validations
    counts = {task: scores[f"{task}/images"] for task in cfg.tasks}
    assert counts == dict(rooms=5, objects=3, normals=5, saliency=3)
    assert {"rooms/IoU/7", "objects/IoU/1"} <= scores.keys()
    assert "objects/IoU/2" not in scores


def test_the_configs_of_seven_tasks():
    start = Path(__file__).parents[2] / "configs/vmt/side_vit-s14_seven-tasks"
    both, nyud, photos = (load_config(f"{start}{which}.py") for which in ("", "_nyud", "_photos"))
    assert set(both.tasks) == set(nyud.tasks) | set(photos.tasks)
    assert set(nyud.tasks) & set(photos.tasks) == {"normals"}
    for index, own in enumerate((nyud, photos)):  # as many updates, with as many of its images
        expected = copy.deepcopy(both.train_dataloader.dataset.datasets[index])
        derived = [step for step in expected.pipeline if step["type"] == "DeriveLabel"]
        assert [(step["task"], step["source"]) for step in derived] == [
            ("human_parts", "objects"), ("rooms", "objects"), ("objects", "rooms")
        ]  # fmt: skip
        for step in derived:
            if not {step["task"], step["source"]} <= set(own.tasks):
                expected.pipeline.remove(step)
        assert own.train_dataloader.dataset == expected
        assert 2 * own.total_batch_size == both.total_batch_size
        assert 2 * own.train_dataloader.sampler.length == both.train_dataloader.sampler.length
        assert own.train_cfg == both.train_cfg
    swapped = {
        "test_dataloader.dataset.datasets.0.tasks": ["rooms", "depth", "edge"],
        "test_dataloader.dataset.datasets.1.tasks": list(photos.tasks),
    }
    for options, with_normals in (({}, "data/nyud"), (swapped, "data/photos_mt")):
        members = load_config(f"{start}.py", options).test_dataloader.dataset.datasets
        assert [m.data_root for m in members if "normals" in m.tasks] == [with_normals]
        assert sum(len(m.tasks) for m in members) == 7


@pytest.fixture
def model(scenes):
    """The small model in eval mode: no dropout, running statistics."""
    model = MODELS.build(small_config(scenes).model)
    model.init_weights()
    return model.eval()


@pytest.fixture
def samples(scenes):
    """Three samples of the first dataset and two of the second, augmented."""
    config = halves(scenes)["train_dataloader.dataset"]
    del config["_delete_"]
    dataset = DATASETS.build(config)
    return [dataset[index] for index in (0, 1, 2, 8, 9)]


def _losses(model, samples):
    batch = dict(
        inputs=[sample["inputs"] for sample in samples],
        data_samples=[sample["data_samples"] for sample in samples],
    )
    batch = model.data_preprocessor(batch, True)
    return batch, model.loss(**batch)


def _mean_by_hand(task, logits, labels):
    """The unweighted loss of logits (C, H, W) and labels, pixel by pixel in float64."""
    terms = []
    if task in FIRST:
        for x, y in zip(logits, labels, strict=True):
            logp = x - np.log(np.exp(x).sum(0))
            terms += [-logp[c, i, j] for (i, j), c in np.ndenumerate(y[0]) if c != 255]
    elif task == "normals":
        for x, y in zip(logits, labels, strict=True):
            unit = x / np.sqrt((x**2).sum(0))
            terms += np.abs(unit - y)[:, (y**2).sum(0) > 0.5].ravel().tolist()
    else:
        flat = np.concatenate([y[0][y[0] != 255] for y in labels])
        negatives = (flat == 0).mean()
        for x, y in zip(logits, labels, strict=True):
            p = 1 / (1 + np.exp(-x[0]))
            loss = np.where(y[0] == 1, -negatives * np.log(p), -(1 - negatives) * np.log(1 - p))
            terms += loss[y[0] != 255].tolist()
    return np.mean(terms)


def test_a_loss_is_the_mean_over_the_labels_that_exist(model, samples):
    batch, losses = _losses(model, samples)
    size = batch["inputs"].shape[2:]
    logits = model.logits(batch["inputs"])
    for task, weight in dict(semseg=4, human_parts=4, saliency=5, normals=5).items():
        rows = [0, 1, 2] if task in FIRST else [3, 4]
        if task == "human_parts":  # scenes without a person have no label file
            rows = [row for row in rows if samples[row]["data_samples"].label(task) is not None]
            assert 0 < len(rows) < 3
        values = F.interpolate(logits[task][rows], size=size, mode="bilinear", align_corners=False)
        labels = [samples[row]["data_samples"].label(task).numpy() for row in rows]
        expected = _mean_by_hand(task, values.detach().double().numpy(), labels)
        assert losses[f"loss_{task}"].item() == pytest.approx(weight * expected, rel=1e-5)


def test_without_its_label_a_task_gets_zeros(model, samples):
    _, losses = _losses(model, samples[:3])
    sum(losses.values()).backward()
    for task in (*FIRST, *SECOND):
        gradients = [p.grad for p in model.heads[task].parameters()]
        assert all(grad is not None for grad in gradients)
        assert any(grad.any() for grad in gradients) == (task in FIRST)
        assert (losses[f"loss_{task}"].item() > 0) == (task in FIRST)
    assert torch.equal(losses["loss_normals"], torch.tensor(0.0))
