"""A config file, a config loaded from it, and one changed in memory mean the same."""

import copy

import pytest
from mmengine.config import Config

from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.apis import MultiTaskInferencer, apply_tta, init_model
from vmt_mm.config import load_config
from vmt_mm.config.dump import config_text
from vmt_mm.engine.runner import MultiTaskRunner
from vmt_mm.errors import InputError

BASE = """
data_root = "base"
image_size = (64, 64)
tasks = dict(floor=dict(type="Segmentation", num_classes=2), depth=dict(type="Depth"))
pretrained = "vmt_mm://swin_nano"
default_scope = "vmt_mm"
model = dict(
    type="MultiTaskSegmentor",
    backbone=dict(type="MultiTaskSwin", arch="nano"),
    head=dict(type="MLPHead", channels=8),
    data_preprocessor=dict(type="MultiTaskDataPreprocessor"),
)
steps = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize"),
    dict(type="LoadLabels"),
    dict(type="PackMultiTaskInputs"),
]
data = dict(type="MultiTaskDataset", pipeline=steps)
train_dataloader = dict(num_workers=0, dataset=data, sampler=dict(type="DefaultSampler"))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=data)
total_batch_size = 8
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1))
"""
OWN = """
_base_ = "base.py"
data_root = "own"
image_size = (32, 48)
"""


@pytest.fixture
def path(tmp_path):
    """A config that overrides values of its base."""
    (tmp_path / "base.py").write_text(BASE)
    (tmp_path / "own.py").write_text(OWN)
    return str(tmp_path / "own.py")


def parts(cfg):
    data = cfg.test_dataloader.dataset
    return data.data_root, tuple(data.pipeline[1].scale), list(cfg.model.tasks), list(data.tasks)


def test_every_form_means_the_same(path):
    expected = load_config(path)
    assert parts(expected) == ("own", (32, 48), ["floor", "depth"], ["floor", "depth"])
    forms = [Config.fromfile(path), load_config(path), load_config(load_config(path))]
    forms += [expected.to_dict(), Config(expected.to_dict()), copy.deepcopy(expected)]
    for form in forms:
        before = copy.deepcopy(form)
        assert load_config(form).to_dict() == expected.to_dict()
        assert dict(load_config(form).items()) == dict(expected.items())
        assert form == before or form.to_dict() == before.to_dict()  # is not changed


@pytest.mark.parametrize(
    "options", [dict(data_root="new"), dict(image_size=(16, 16)), dict(task="depth")]
)
def test_options_mean_the_same(path, options):
    expected = load_config(path, options)
    assert parts(expected) != parts(load_config(path))
    for form in (Config.fromfile(path), load_config(path), load_config(path).to_dict()):
        assert dict(load_config(form, options).items()) == dict(expected.items())


@pytest.mark.parametrize("load", [Config.fromfile, load_config])
@pytest.mark.parametrize(
    "change",
    [dict(data_root="new"), dict(image_size=(16, 16)), dict(task="depth"), dict(protocol="C")],
)
def test_a_variable_that_is_changed_in_memory_reaches_its_places(path, load, change):
    cfg = load(path)
    for key, value in change.items():
        cfg[key] = value
    assert dict(load_config(cfg).items()) == dict(load_config(path, change).items())
    again = load_config(load_config(cfg))
    again.data_root = "third"
    assert load_config(again).test_dataloader.dataset.data_root == "third"


def test_a_component_keeps_its_own_value(path):
    for cfg in (Config.fromfile(path), load_config(path)):
        cfg.test_dataloader.dataset.data_root = "place"
        assert parts(load_config(cfg))[0] == "place"


def test_the_batch_is_divided_over_the_processes(path):
    cfg = load_config(path)
    assert cfg.train_dataloader.batch_size == 8
    assert load_config(cfg, world_size=4, training=False).train_dataloader.batch_size == 2
    cfg.total_batch_size = 16
    assert load_config(cfg, world_size=4).train_dataloader.batch_size == 4
    for_test = load_config(path, training=False)
    assert "batch_size" not in load_config(for_test, world_size=3, training=False).train_dataloader
    explicit = load_config(path, {"train_dataloader.batch_size": 3})
    assert load_config(explicit, world_size=2).train_dataloader.batch_size == 3


def test_other_types_than_a_config_are_refused():
    with pytest.raises(InputError, match="must be a file, a Config or a dictionary, got 3"):
        load_config(3)


@pytest.mark.parametrize("options", [dict(data_root="new"), dict(task="depth", protocol="C")])
def test_a_dump_means_the_same(path, tmp_path, options):
    load_config(path, {"train_cfg.max_epochs": 7, **options}).dump(str(tmp_path / "dump.py"))
    others = dict(data_root="third", image_size=(24, 24), protocol="A", task=None)
    others["tasks.floor.loss_weight"] = 3.0
    changed = load_config(tmp_path / "dump.py", others)
    expected = load_config(path, {"train_cfg.max_epochs": 7, **others})
    assert dict(changed.items()) == dict(expected.items())


def test_changes_after_loading_are_dumped(path, tmp_path):
    cfg = load_config(path)
    cfg.work_dir = "work"
    cfg.merge_from_dict({"model.head.channels": 16, "tasks.floor.loss_weight": 3.0})
    cfg.train_dataloader.dataset.pipeline.insert(1, dict(type="PhotoMetricDistortion"))
    cfg.dump(str(tmp_path / "dump.py"))
    again = load_config(tmp_path / "dump.py", dict(image_size=(24, 24)))
    assert (again.work_dir, again.model.head.channels) == ("work", 16)
    assert again.model.tasks.floor.loss_weight == 3.0
    steps = again.train_dataloader.dataset.pipeline
    assert steps[1] == dict(type="PhotoMetricDistortion")
    assert tuple(steps[2].scale) == (24, 24)


def test_a_config_with_all_values_spelled_out_keeps_them(path, tmp_path):
    (tmp_path / "full.py").write_text(config_text(load_config(path), resolved=True))
    assert parts(load_config(tmp_path / "full.py")) == parts(load_config(path))
    with pytest.raises(InputError, match=r"data_root='new' has no effect.* set it there, as tr"):
        load_config(tmp_path / "full.py", dict(data_root="new"))


def test_a_task_comes_back(path):
    cfg = load_config(path, dict(task="depth"))
    cfg.task = None
    assert dict(load_config(cfg).items()) == dict(load_config(path, dict(task=None)).items())


def test_everything_that_takes_a_config(path, tmp_path):
    expected = parts(load_config(path, training=False))
    dictionary = load_config(path, training=False).to_dict()
    for form in (path, Config.fromfile(path), dictionary):
        model = init_model(form, device="cpu")
        assert parts(model.cfg) == expected
        assert parts(MultiTaskInferencer(form, device="cpu").cfg) == expected
        (experiment,) = load_experiments([form, form] if form is path else [form])
        assert parts(experiment.cfg) == expected
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path / "work")
    cfg.pop("test_dataloader")  # would need an evaluator
    runner = MultiTaskRunner.from_cfg(cfg)
    assert runner.cfg.train_dataloader.dataset.data_root == "own"
    assert runner.cfg.train_dataloader.batch_size == 8


def test_augmentation_of_a_config_that_was_not_loaded(path):
    cfg = Config.fromfile(path)
    apply_tta(cfg)
    versions = cfg.test_dataloader.dataset.pipeline[1].transforms[0]
    assert [tuple(version["scale"]) for version in versions] == [(24, 36), (32, 48), (40, 60)]
    assert load_config(cfg, training=False).to_dict() == cfg.to_dict()  # as a runner does
