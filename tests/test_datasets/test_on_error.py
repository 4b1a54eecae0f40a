"""``on_error='skip'``: replacements of corrupt files, and how they are reported."""

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from vmt_mm.datasets import MultiTaskDataset, SeededIndex
from vmt_mm.engine.hooks import reports
from vmt_mm.engine.hooks.reports import (
    LabelReportHook,
    MultiTaskVisualizationHook,
    PredictionWriterHook,
)
from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.evaluation import MultiTaskEvaluator
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import build_tasks

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    saliency=dict(type="Saliency"),
    normals=dict(type="Normals"),
)
IDS = ("a", "b", "c", "d", "e", "f")
SIZE = (10, 12)
TRAIN = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomWarp", size=(8, 8)),
    dict(type="PackMultiTaskInputs"),
]
TEST = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(8, 8)),
    dict(type="LoadLabels"),
    dict(type="PackMultiTaskInputs"),
]


def _save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path):
    """Six images with all labels."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    for i in IDS:
        _save(root / "images" / f"{i}.png", rng.integers(0, 256, (*SIZE, 3)))
        _save(root / "semseg" / f"{i}.png", rng.integers(0, 4, SIZE))
        _save(root / "saliency" / f"{i}.png", rng.integers(0, 256, SIZE))
        _save(root / "normals" / f"{i}.png", rng.integers(1, 256, (*SIZE, 3)))
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("\n".join(IDS))
    return root


def _damage(root, *names):
    for name in names:
        path = root / f"{name}.png"
        path.write_bytes(path.read_bytes()[:60])
    return [str(root / f"{name}.png") for name in names]


def _dataset(root, pipeline=TRAIN, on_error="skip", **kwargs):
    return MultiTaskDataset(str(root), TASKS, pipeline=pipeline, on_error=on_error, **kwargs)


def _test_set(root):
    return _dataset(root, TEST, test_mode=True)


def _draw(index, epoch=0):
    return SeededIndex(index, (3, epoch, index))


def _train_sample(dataset, index, epoch=0):
    return dataset[_draw(index, epoch)]["data_samples"]


def _loader(dataset, workers=0):
    config = dict(
        batch_size=2,
        num_workers=workers,
        dataset=dataset,
        sampler=dict(type="SeededSampler", shuffle=True, seed=3),
    )
    return Runner.build_dataloader(config, seed=0)


@pytest.mark.parametrize("kwargs", [{}, dict(pipeline=TEST, test_mode=True)])
def test_a_damaged_file_ends_the_run_unless_it_may_be_skipped(root, kwargs):
    (image, label) = _damage(root, "images/b", "saliency/d")
    for options in (dict(on_error="raise"), {}):
        dataset = MultiTaskDataset(
            str(root), TASKS, **dict(dict(pipeline=TRAIN), **kwargs, **options)
        )
        with pytest.raises(CorruptFileError, match=f"{image}: the PNG is truncated"):
            dataset[1]
        with pytest.raises(InputError, match=f"{label}: cannot be read"):
            dataset[_draw(3)]
        assert not dataset[0]["data_samples"].get("skipped")


def test_intact_files_are_read_alike(root):
    # Allowing skips must not change a training on intact files.
    strict, skip = _dataset(root, on_error="raise"), _dataset(root)
    for index in range(len(IDS)):
        one, other = strict[_draw(index)], skip[_draw(index)]
        assert torch.equal(one["inputs"], other["inputs"])
        labels = [result["data_samples"].label("normals") for result in (one, other)]
        assert torch.equal(*labels)
        assert not other["data_samples"].get("skipped")
        assert not other["data_samples"].is_stand_in


def test_in_training_another_draw_replaces_a_damaged_image(root):
    (image,) = _damage(root, "images/b")
    dataset = _dataset(root)
    chosen = set()
    for epoch in range(12):
        sample = _train_sample(dataset, 1, epoch)
        assert sample.sample_id in set(IDS) - {"b"}
        assert sample.img_path == str(root / "images" / f"{sample.sample_id}.png")
        assert sample.skipped == {image: f"{image}: the PNG is truncated; expected an image"}
        assert not sample.is_stand_in
        assert all(sample.label(task) is not None for task in TASKS)
        chosen.add(sample.sample_id)
    assert len(chosen) > 2  # not always the same one, which would be overrepresented
    assert not _train_sample(dataset, 0).get("skipped")


def test_a_replacement_that_is_damaged_is_replaced_too(root):
    images = _damage(root, *(f"images/{i}" for i in IDS[:-1]))
    dataset = _dataset(root)
    samples = [_train_sample(dataset, 0, epoch) for epoch in range(8)]
    assert {sample.sample_id for sample in samples} == {"f"}
    assert all(images[0] in sample.skipped for sample in samples)
    assert all(set(sample.skipped) <= set(images) for sample in samples)
    assert any(len(sample.skipped) > 1 for sample in samples)


def test_the_same_draw_gives_the_same_replacement(root):
    _damage(root, "images/b", "images/d")

    def sample(dataset):
        result = dataset[_draw(1, 5)]
        return result["inputs"], result["data_samples"]

    image, first = sample(_dataset(root))
    dataset = _dataset(root)
    for state in range(3):
        # Independent of the global generators and of earlier reads.
        np.random.seed(state)
        random.seed(state)
        torch.manual_seed(state)
        for index in range(state, len(IDS)):
            dataset[_draw(index, state)]
        again, other = sample(dataset)
        assert other.sample_id == first.sample_id
        assert torch.equal(again, image)
        assert torch.equal(other.label("semseg"), first.label("semseg"))
        assert other.skipped == first.skipped


def test_workers_replace_alike(root):
    _damage(root, "images/b", "images/d")

    def epoch(workers):
        batches = list(_loader(_dataset(root), workers))
        samples = [sample for batch in batches for sample in batch["data_samples"]]
        images = [image for batch in batches for image in batch["inputs"]]
        return [(s.sample_id, s.get("skipped")) for s in samples], torch.stack(images)

    (names, images), (others, other_images) = epoch(0), epoch(2)
    assert names == others
    assert torch.equal(images, other_images)
    assert sum(bool(damaged) for _, damaged in names) == 2


def test_a_damaged_label_counts_as_missing(root):
    torn, wide = _damage(root, "semseg/b")[0], str(root / "saliency" / "b.png")
    _save(root / "saliency" / "b.png", np.zeros((10, 13)))
    for pipeline, test_mode in ((TRAIN, False), (TEST, True)):
        sample = _dataset(root, pipeline, test_mode=test_mode)[1]["data_samples"]
        assert sample.sample_id == "b"
        assert [task for task in TASKS if sample.label(task) is not None] == ["normals"]
        assert set(sample.skipped) == {torn, wide}
        assert sample.skipped[torn].startswith(f"{torn}: cannot be read")
        assert "(10, 13)" in sample.skipped[wide]
        assert not sample.is_stand_in


def test_in_a_test_a_placeholder_takes_part_without_labels(root):
    images = _damage(root, "images/b", "images/f")
    dataset = _test_set(root)
    results = [dataset[index] for index in range(len(dataset))]
    samples = [result["data_samples"] for result in results]
    # One sample per index, in order, so that processes count images alike.
    assert [sample.sample_id for sample in samples] == list(IDS)
    assert [sample.is_stand_in for sample in samples] == [i in "bf" for i in IDS]
    assert {result["inputs"].shape for result in results} == {(3, 8, 8)}
    for image, stand_in in zip(images, (samples[1], samples[5]), strict=True):
        assert stand_in.img_path == image
        assert stand_in.skipped == {image: f"{image}: the PNG is truncated; expected an image"}
        assert all(stand_in.label(task) is None for task in TASKS)
    assert all(samples[0].label(task) is not None for task in TASKS)


def test_metrics_leave_placeholders_out(root):
    _damage(root, "images/b", "images/f", "semseg/a")
    dataset, evaluator = _test_set(root), MultiTaskEvaluator(TASKS)
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        size = sample.ori_shape
        sample.set_prediction("semseg", torch.zeros(1, *size, dtype=torch.uint8))
        sample.set_prediction("saliency", torch.zeros(1, *size))
        sample.set_prediction("normals", torch.ones(3, *size) / 3**0.5)
        evaluator.process([sample])
    results = evaluator.evaluate(len(dataset))
    assert (results["semseg/images"], results["normals/images"]) == (3, 4)


def test_the_error_names_damaged_images_if_none_is_usable(root):
    images = _damage(root, *(f"images/{i}" for i in IDS))
    dataset = _dataset(root, max_refetch=20)
    with pytest.raises(InputError) as caught:
        dataset[_draw(2)]
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{root}/splits/train.txt: 21 samples in a row were unusable; ")
    assert sum(f"{image}: the PNG is truncated" in message for image in images) == 3


# mmengine's samplers yield plain integers; corrupt files are skipped and named all the same.


def test_other_samplers_name_skipped_files(root):
    images = _damage(root, "images/b")
    assert list(_dataset(root)[1]["data_samples"].get("skipped") or {}) == images


def test_other_samplers_end_alike(root):
    _damage(root, *(f"images/{i}" for i in IDS))
    with pytest.raises(InputError):
        _dataset(root, max_refetch=3)[1]


class _Run:
    """A runner for the hook, with the model's tasks; it records warnings."""

    def __init__(self) -> None:
        self.warnings, self.epoch = [], 0
        tasks = build_tasks(TASKS)
        self.val_dataloader = self.test_dataloader = SimpleNamespace(dataset=None)
        self.model = SimpleNamespace(tasks=tasks, trained_tasks=tasks)
        self.logger = SimpleNamespace(warning=self.warnings.append)

    def train(self, hook, batches):
        """One epoch over these lists of samples; return its warnings."""
        before = len(self.warnings)
        hook.before_train_epoch(self)
        for index, samples in enumerate(batches):
            batch = dict(data_samples=samples)
            hook.after_train_iter(self, index, data_batch=batch, outputs={})
        hook.after_train_epoch(self)
        self.epoch += 1
        return self.warnings[before:]

    def validate(self, hook, samples, kind="val"):
        """One validation or test of these samples; return its warnings."""
        before = len(self.warnings)
        for index, sample in enumerate(samples):
            getattr(hook, f"after_{kind}_iter")(self, index, outputs=[sample])
        getattr(hook, f"after_{kind}_epoch")(self, metrics={})
        return self.warnings[before:]


def _sample(**values):
    """A sample with constant labels."""
    sample = MultiTaskDataSample(metainfo=dict(sample_id="x", img_path="x.png"))
    for task, value in values.items():
        sample.set_label(task, torch.full((3 if task == "normals" else 1, 4, 4), value))
    return sample


def test_skipped_files_are_listed_once_over_several_epochs(root):
    image, label = _damage(root, "images/b", "normals/d")
    run, hook, loader = _Run(), LabelReportHook(), _loader(_dataset(root))
    batches, warnings = [], []
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        batches.append([batch["data_samples"] for batch in loader])
        warnings += run.train(hook, batches[-1])
    # Every epoch skips them; otherwise the test would prove nothing.
    seen = [
        {path for b in epoch for s in b for path in s.get("skipped") or ()} for epoch in batches
    ]
    assert sum({image, label} <= paths for paths in seen) > 1
    text = "\n".join(warnings)
    assert Counter(path for path in (image, label) for _ in range(text.count(f"  {path}: "))) == {
        image: 1,
        label: 1,
    }
    assert "2 corrupt file(s) were skipped" in warnings[0]
    assert "were not trained" not in text


def test_only_newly_damaged_files_are_listed(root):
    run, hook = _Run(), LabelReportHook()
    (image,) = _damage(root, "images/b")
    assert len(run.train(hook, [[_train_sample(_dataset(root), 1)]])) == 1
    (other,) = _damage(root, "semseg/a")
    samples = [_train_sample(_dataset(root), index) for index in (0, 1, 2)]
    (warning,) = run.train(hook, [samples])
    assert warning.startswith("1 corrupt file(s) were skipped")
    assert other in warning
    assert image not in warning


@pytest.mark.parametrize("kind", ["val", "test"])
def test_a_validation_and_a_test_list_them_too(root, kind):
    images = _damage(root, "images/b", "images/f")
    dataset, run, hook = _test_set(root), _Run(), LabelReportHook()
    samples = [dataset[index]["data_samples"] for index in range(len(dataset))]
    (warning,) = run.validate(hook, samples, kind)
    assert all(f"{image}: the PNG is truncated" in warning for image in images)
    assert run.validate(hook, samples, kind) == []
    # The next epoch does not repeat what the validation listed.
    assert run.train(hook, [samples]) == []


def test_tasks_without_a_label_are_named():
    run, hook = _Run(), LabelReportHook()
    batches = [[_sample(semseg=1), _sample()], [_sample()]]
    (warning,) = run.train(hook, batches)
    assert warning.startswith("epoch 1: in 2 iterations no image had a label for task(s) ")
    assert "saliency, normals, which were not trained" in warning
    assert "semseg" not in warning
    # Each epoch is judged separately, over all of its batches.
    assert run.train(hook, [[_sample(semseg=1)], [_sample(saliency=0), _sample(normals=1.0)]]) == []
    (warning,) = run.train(hook, [[_sample(semseg=1, saliency=0)]])
    assert warning.startswith("epoch 3: in 1 iterations no image had a label for task(s) normals,")


@pytest.mark.parametrize("values", [dict(semseg=255), dict(saliency=255), dict(normals=0.0)])
def test_a_fully_ignored_label_counts_as_missing(values):
    (task,) = values
    others = {name: 1 for name in TASKS if name != task}
    run, hook = _Run(), LabelReportHook()
    (warning,) = run.train(hook, [[_sample(**values, **others)]])
    assert f"no image had a label for task(s) {task}," in warning
    sample = _sample(**values, **others)
    sample.label(task)[:, 0, 0] = 1  # one labelled pixel is enough
    assert run.train(hook, [[sample]]) == []


def test_a_model_of_another_kind_is_left_alone():
    run = _Run()
    run.model = SimpleNamespace()
    assert run.train(LabelReportHook(), [[_sample()]]) == []


def _predicted(dataset):
    """All samples of a test set, with predictions."""
    samples = [dataset[index]["data_samples"] for index in range(len(dataset))]
    for sample in samples:
        sample.set_prediction("saliency", torch.ones(1, *sample.ori_shape))
    return samples


def test_no_prediction_of_a_placeholder_is_written(root, tmp_path):
    _damage(root, "images/b", "images/f")
    hook = PredictionWriterHook(str(tmp_path / "out"))
    hook.after_test_iter(_Run(), 0, outputs=_predicted(_test_set(root)))
    files = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == [f"{i}.png" for i in "acde"]


def test_no_panel_of_a_placeholder_is_drawn(root, tmp_path, monkeypatch):
    # The image could not be read.
    _damage(root, "images/a", "images/f")
    monkeypatch.setattr(reports, "draw_panel", lambda *_: np.zeros((1, 1, 3), np.uint8))
    samples, shown = _predicted(_test_set(root)), []
    visualizer = SimpleNamespace(dataset_meta=None, add_image=lambda name, *_: shown.append(name))
    run = _Run()
    run.rank, run.visualizer = 0, visualizer
    hook = MultiTaskVisualizationHook(num_images=2, show_dir=str(tmp_path / "show"))
    hook.before_val_epoch(run)
    for index in (0, 2, 4):
        hook.after_val_iter(run, index, outputs=samples[index : index + 2])
    # The first intact images, as many as requested.
    assert shown == ["val_b", "val_c"]
    hook.after_test_iter(run, 0, outputs=samples)
    assert sorted(path.name for path in (tmp_path / "show").iterdir()) == [
        f"{i}.png" for i in "bcde"
    ]
