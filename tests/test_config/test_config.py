"""Configs: changed variables reach their places, batches are divided, every file builds."""

import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope

from vmt_mm.analysis.counts import WithoutValues
from vmt_mm.config import check_inputs, inputs, load_config
from vmt_mm.config.monitors import derive_rules
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS, EVALUATOR, MODELS

CONFIGS = Path(__file__).parents[2] / "configs"
PASCAL = CONFIGS / "vmt" / "vmt_swin-t_pascal.py"
NANO = CONFIGS / "vmt" / "vmt_swin-nano_shapes.py"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
FILES = sorted(
    str(path.relative_to(CONFIGS))
    for folder in ("vmt", "baselines", "peers", "pretrain")
    for path in (CONFIGS / folder).rglob("*.py")
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    # A config must not depend on the current folder.
    monkeypatch.chdir(tmp_path)
    init_default_scope("vmt_mm")


@pytest.fixture
def no_values():
    """Build models without values: the largest ones take gigabytes."""
    with WithoutValues():
        yield


def _roots(cfg):
    return [cfg[loader].dataset.data_root for loader in LOADERS]


def _pipeline(cfg, loader):
    return {entry.type: entry for entry in cfg[loader].dataset.pipeline}


def test_data_root_reaches_every_loader():
    assert _roots(load_config(PASCAL)) == ["data/pascal_mt"] * 3
    assert _roots(load_config(PASCAL, dict(data_root="elsewhere"))) == ["elsewhere"] * 3


def test_the_home_folder_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    text = f'_base_ = "{PASCAL}"\ndata_root = "~/d"\nwork_dir = "~/w"\nload_from = "~/c.pth"\n'
    (tmp_path / "own.py").write_text(text)
    cfg = load_config("~/own.py", {"pretrained": "~/p.pth", "val_dataloader.dataset.cache": "~"})
    assert _roots(cfg) == [f"{tmp_path}/d"] * 3
    assert (cfg.work_dir, cfg.load_from) == (f"{tmp_path}/w", f"{tmp_path}/c.pth")
    assert cfg.model.backbone.pretrained == f"{tmp_path}/p.pth"
    assert cfg.val_dataloader.dataset.cache == str(tmp_path)
    (tmp_path / "above.py").write_text('_base_ = "own.py"\ndata_root = "~/other"\n')
    assert _roots(load_config(tmp_path / "above.py")) == [f"{tmp_path}/other"] * 3


def test_a_dataset_keeps_its_own_root():
    options = {"data_root": "elsewhere", "val_dataloader.dataset.data_root": "own"}
    assert _roots(load_config(PASCAL, options)) == ["elsewhere", "own", "elsewhere"]
    wrapped = dict(
        type="ConcatDataset",
        _delete_=True,
        datasets=[dict(type="PASCALContextMT", **root) for root in ({}, dict(data_root="own"))],
    )
    options = {"data_root": "elsewhere", "train_dataloader.dataset": wrapped}
    datasets = load_config(PASCAL, options).train_dataloader.dataset.datasets
    assert [entry.data_root for entry in datasets] == ["elsewhere", "own"]


@pytest.mark.parametrize("path", [PASCAL, NANO])
def test_weights_reach_the_encoder(path):
    before = load_config(path).model.backbone
    assert before.pretrained
    assert not before.get("allow_random_backbone", False)
    options = dict(pretrained=None, allow_random_backbone=True)
    backbone = load_config(path, options).model.backbone
    assert backbone.pretrained is None
    assert backbone.allow_random_backbone is True
    assert load_config(path, dict(pretrained="file")).model.backbone.pretrained == "file"
    own = {"model.backbone.pretrained": "own"}
    assert load_config(path, own).model.backbone.pretrained == "own"
    with pytest.raises(InputError, match="pretrained='file' has no effect"):
        load_config(path, {"pretrained": "file", **own})


@pytest.mark.parametrize("size", [(64, 32), [64, 32]])
def test_image_size_reaches_the_transforms(size):
    cfg = load_config(PASCAL, dict(image_size=size))
    train, test = _pipeline(cfg, "train_dataloader"), _pipeline(cfg, "test_dataloader")
    assert tuple(train["RandomWarp"].size) == (64, 32)
    assert tuple(train["RandomWarp"].scale) == (0.75, 1.25)
    assert tuple(test["Resize"].scale) == (64, 32)
    assert tuple(_pipeline(cfg, "val_dataloader")["Resize"].scale) == (64, 32)


def test_one_option_moves_the_augmentation_to_the_device():
    assert _pipeline(load_config(PASCAL), "train_dataloader")["RandomWarp"].on_device is False
    cfg = load_config(PASCAL, dict(augment_on_device=True))
    assert _pipeline(cfg, "train_dataloader")["RandomWarp"].on_device is True
    assert cfg.model.data_preprocessor.type == "MultiTaskDataPreprocessor"
    assert cfg.train_dataloader.pin_memory
    assert cfg.model.data_preprocessor.non_blocking


def test_unchanged_config_is_left_as_it_is():
    cfg = load_config(PASCAL, dict(data_root="data/pascal_mt"))
    assert tuple(_pipeline(cfg, "test_dataloader")["Resize"].scale) == (512, 512)
    assert cfg.val_dataloader.batch_size == 6


def test_total_batch_is_divided_over_processes():
    assert load_config(PASCAL).train_dataloader.batch_size == 12
    assert load_config(PASCAL, world_size=4).train_dataloader.batch_size == 3
    assert load_config(PASCAL, dict(total_batch_size=20), 5).train_dataloader.batch_size == 4
    with pytest.raises(InputError, match="total_batch_size=12 .* 5 processes"):
        load_config(PASCAL, world_size=5)


def test_explicit_batch_stays_per_process():
    cfg = load_config(PASCAL, {"train_dataloader.batch_size": 5}, world_size=4)
    assert cfg.train_dataloader.batch_size == 5
    assert cfg.total_batch_size == 20


def test_batch_size_is_needed(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("train_dataloader = dict(num_workers=0)\n")
    with pytest.raises(InputError, match="total_batch_size must be a positive"):
        load_config(path)
    path.write_text("test_dataloader = dict(num_workers=0)\n")
    assert load_config(path).test_dataloader.num_workers == 0
    with pytest.raises(InputError, match="none.py: no such config file"):
        load_config(tmp_path / "none.py")


def test_several_processes_on_a_cpu_get_their_wrapper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "model_wrapper_cfg" not in load_config(PASCAL)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    wrapper = load_config(PASCAL).model_wrapper_cfg
    assert (wrapper.device_ids, wrapper.broadcast_buffers) == (None, False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "model_wrapper_cfg" not in load_config(PASCAL, world_size=2)


def test_config_files_are_found():
    assert {"vmt/vmt_swin-t_pascal.py", "vmt/vmt_swin-nano_shapes.py"} <= set(FILES)
    assert {name.split("/")[0] for name in FILES} == {"vmt", "baselines", "peers", "pretrain"}


@pytest.mark.parametrize("name", FILES)
def test_every_config_builds_its_model(name):
    cfg = load_config(CONFIGS / name, dict(pretrained=None, allow_random_backbone=True))
    assert cfg.default_scope == "vmt_mm"
    if cfg.model.backbone.type == "MultiTaskTimmViT":
        pytest.importorskip("timm")
    with nullcontext() if "nano" in name else WithoutValues():
        model = MODELS.build(cfg.model)
    names = set(cfg.model.tasks)
    assert names == set(model.tasks) == set(model.heads) == set(model.backbone.task_names)
    for loader in LOADERS:
        datasets = cfg[loader].dataset.get("datasets") or [cfg[loader].dataset]
        labelled = {task: entry for dataset in datasets for task, entry in dataset.tasks.items()}
        new = cfg.model.get("new_tasks")  # only these train and need labels
        wanted = new if new and loader == "train_dataloader" else list(cfg.model.tasks)
        assert labelled == {task: cfg.model.tasks[task] for task in wanted}
        assert all(DATASETS.get(dataset.type) is not None for dataset in datasets)
    assert cfg.val_evaluator.tasks == cfg.test_evaluator.tasks == cfg.model.tasks
    if "nano" in name:
        model.eval()
        with torch.no_grad():
            logits = model(torch.zeros(1, 3, 32, 32))
        channels = {task: logits[task].shape[1] for task in names}
        assert channels == {task: model.tasks[task].out_channels for task in names}
    parts = [weakref.ref(part) for part in model.modules()]
    del model
    assert not any(part() for part in parts)  # the model is freed


def test_timm_configs_follow_timms_settings():
    """Normalisation as in pretraining, sizes that are multiples of the patch, taps as DINOv3's."""
    timm, found = pytest.importorskip("timm"), set()
    for name in FILES:
        cfg = load_config(CONFIGS / name)
        backbone, pixels = cfg.model.backbone, cfg.model.data_preprocessor
        if backbone.type != "MultiTaskTimmViT":
            continue
        theirs = timm.get_pretrained_cfg(backbone.model_name)
        for own, value in ((pixels.mean, theirs.mean), (pixels.std, theirs.std)):
            assert own == pytest.approx([255 * x for x in value], rel=1e-4)
        assert pixels.bgr_to_rgb
        (patch,) = (int(part[5:]) for part in backbone.model_name.split("_") if "patch" in part)
        assert all(side % patch == 0 for side in cfg.image_size)
        large = "large" in backbone.model_name
        assert tuple(backbone.out_indices) == ((4, 11, 17, 23) if large else (2, 5, 8, 11))
        assert cfg.model.backbone.pretrained.startswith("pretrain/")
        header = (CONFIGS / name).read_text()
        assert name.startswith("baselines") or "# Weights (" in header
        found.add(name.split("_", 1)[0])
    assert found == {"vmt/vmt", "baselines/decoders", "baselines/shared", "baselines/multi"}


@pytest.mark.parametrize("folder", ["vmt/vmt", "baselines/decoders"])
def test_configs_with_edges_and_depth(folder, no_values):
    pascal = load_config(CONFIGS / f"{folder}_swin-t_pascal-5task.py")
    assert list(pascal.model.tasks) == ["semseg", "human_parts", "saliency", "normals", "edge"]
    assert pascal.model.tasks.edge == dict(type="Edge", loss_weight=50.0)
    nyud = load_config(CONFIGS / f"{folder}_swin-t_nyud.py")
    weights = {name: task.get("loss_weight", 1.0) for name, task in nyud.model.tasks.items()}
    assert weights == dict(semseg=1.0, depth=1.0, normals=10.0, edge=50.0)
    assert nyud.model.tasks.semseg.num_classes == 40
    assert nyud.model.tasks.edge.tolerance == 0.011
    train, test = _pipeline(nyud, "train_dataloader"), _pipeline(nyud, "test_dataloader")
    assert tuple(train["RandomWarp"].size) == tuple(test["Resize"].scale) == (576, 448)
    for cfg in (pascal, nyud):
        # these tasks have no reference scores
        evaluator = EVALUATOR.build(cfg.test_evaluator)
        assert not evaluator.reference
        assert list(evaluator.tasks) == list(cfg.model.tasks)
        encoder = dict(cfg.model.backbone, pretrained=None, tasks=list(cfg.model.tasks))
        kind = type(MODELS.build(encoder).peft).__name__
        assert kind == ("VMTAdapter" if folder.startswith("vmt") else "DecodersOnly")


def test_missing_data_and_weights_are_listed_together(tmp_path):
    with pytest.raises(InputError) as caught:
        check_inputs(load_config(PASCAL), training=True)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "'data/pascal_mt'" in lines[0]
    assert "data_root=<dataset folder>" in lines[0]
    assert "'pretrain/swin_tiny_patch4_window7_224.pth'" in lines[1]
    assert "pretrained=<weights file>" in lines[1]
    # Tests read no pretrained weights.
    with pytest.raises(InputError) as caught:
        check_inputs(load_config(PASCAL), training=False)
    assert len(str(caught.value).splitlines()) == 1
    # A folder without lists lacks both lists.
    weights = tmp_path / "weights.pth"
    weights.touch()
    cfg = load_config(PASCAL, dict(data_root=str(tmp_path), pretrained=str(weights)))
    with pytest.raises(InputError, match=r"(?s)splits/train\.txt.*\n.*splits/val\.txt"):
        check_inputs(cfg, training=True)
    (tmp_path / "splits").mkdir()
    for split in ("train", "val"):
        (tmp_path / "splits" / f"{split}.txt").touch()
    check_inputs(cfg, training=True)


def test_rendered_data_is_never_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "locate", lambda pretrained: pretrained)
    cfg = load_config(NANO, dict(data_root=str(tmp_path / "shapes")))
    check_inputs(cfg, training=True)
    assert not (tmp_path / "shapes").exists()


def test_variables_set_in_a_derived_file_reach_their_places(tmp_path):
    base = CONFIGS / "vmt/vmt_swin-t_pascal.py"
    (tmp_path / "own.py").write_text(
        f"_base_ = {str(base)!r}\n"
        "data_root = 'mine'\npretrained = 'own.pth'\nimage_size = (64, 32)\nreference = None\n"
        "tasks = dict(_delete_=True, saliency=dict(type='Saliency'))\n"
    )
    cfg = load_config(tmp_path / "own.py", {"data_root": "other"})
    for name in ("train", "val", "test"):
        assert cfg[f"{name}_dataloader"].dataset.data_root == "other"
        assert cfg[f"{name}_dataloader"].dataset.tasks == dict(saliency=dict(type="Saliency"))
    assert cfg.model.tasks == dict(saliency=dict(type="Saliency"))
    assert cfg.model.backbone.pretrained == "own.pth"
    assert cfg.train_dataloader.dataset.pipeline[2].size == (64, 32)
    assert cfg.val_dataloader.dataset.pipeline[1].scale == (64, 32)
    assert cfg.val_evaluator.reference is None


def test_a_variable_without_effect_is_refused(tmp_path):
    base = CONFIGS / "vmt/vmt_swin-t_pascal.py"
    (tmp_path / "own.py").write_text(
        f"_base_ = {str(base)!r}\n"
        + "".join(
            f"{n}_dataloader = dict(dataset=dict(data_root='fixed'))\n"
            for n in ("train", "val", "test")
        )
    )
    with pytest.raises(InputError, match="data_root='other' has no effect"):
        load_config(tmp_path / "own.py", {"data_root": "other"})


def test_a_test_ignores_the_training_batch():
    cfg = load_config(CONFIGS / "vmt/vmt_swin-t_pascal.py", world_size=8, training=False)
    assert "batch_size" not in cfg.train_dataloader


@pytest.mark.parametrize(
    ("metric", "rule"),
    [("normals/mErr", "less"), ("semseg/mIoU", "greater"), ("delta", "greater")],
)
def test_the_best_checkpoint_follows_the_task(metric, rule):
    assert _best(load_config(PASCAL, {"default_hooks.checkpoint.save_best": metric})) == (
        metric,
        rule,
    )


def _best(cfg):
    hook = derive_rules(cfg)["default_hooks"].checkpoint
    return hook.save_best, hook.rule


def test_one_task_alone(no_values):
    single = {"task": "normals", "model.task_heads": dict(saliency=dict(type="HRNetHead"))}
    cfg = load_config(PASCAL, {**single, "default_hooks.checkpoint.save_best": "semseg/mIoU"})
    one = dict(normals=dict(type="Normals", loss_weight=10.0))
    assert (
        cfg.tasks == cfg.model.tasks == cfg.val_evaluator.tasks == cfg.test_evaluator.tasks == one
    )
    assert not cfg.model.task_heads
    assert all(cfg[loader].dataset.tasks == one for loader in LOADERS)
    assert cfg.val_evaluator.reference == dict(normals=17.97)
    assert _best(cfg) == ("normals/mErr", "less")
    assert list(MODELS.build(cfg.model).heads) == ["normals"]


@pytest.mark.parametrize("option", [{"tasks.saliency.primary_metric": "maxF"}, {"protocol": "C"}])
def test_one_task_alone_is_judged_by_its_own_metric(option):
    best = {"default_hooks.checkpoint.save_best": "normals/mErr"}
    cfg = load_config(PASCAL, {"task": "saliency", **best, **option})
    assert _best(cfg) == ("saliency/maxF", "greater")


def test_a_file_can_name_its_task_and_an_option_another(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(f"_base_ = {str(NANO)!r}\ntask = 'semseg'\n")
    cfg = load_config(own)
    assert list(cfg.model.tasks) == list(cfg.train_dataloader.dataset.tasks) == ["semseg"]
    assert cfg.default_hooks.checkpoint.save_best == "semseg/mIoU"
    cfg = load_config(own, {"task": "saliency", "tasks.saliency.loss_weight": 2.0})
    assert cfg.model.tasks == dict(saliency=dict(type="Saliency", loss_weight=2.0))
    assert cfg.default_hooks.checkpoint.save_best == "saliency/mIoU"
    assert len(load_config(own, {"task": None}).model.tasks) == 4


def test_the_best_checkpoint_of_all_tasks_stays_that_of_one():
    assert load_config(PASCAL, {"task": "semseg"}).default_hooks.checkpoint.save_best == "delta"


def test_options_change_one_task_of_one_component():
    options = {
        "model.tasks.semseg.loss_weight": 2.0,
        "train_dataloader.dataset.tasks.semseg.num_classes": 9,
        "val_evaluator.reference.semseg": 60.0,
    }
    plain, cfg = load_config(PASCAL), load_config(PASCAL, options)
    assert cfg.model.tasks == {**plain.tasks, "semseg": {**plain.tasks.semseg, "loss_weight": 2.0}}
    assert cfg.train_dataloader.dataset.tasks.semseg.num_classes == 9
    assert cfg.val_evaluator.reference == {**plain.reference, "semseg": 60.0}
    for same in ("tasks", "reference"):
        assert cfg[same] == cfg.test_evaluator[same] == plain[same]
    assert cfg.val_dataloader.dataset.tasks == plain.tasks
    assert load_config(cfg).model.tasks == cfg.model.tasks
    assert load_config(PASCAL, {**options, "task": "semseg"}).model.tasks.semseg.loss_weight == 2.0
    with pytest.raises(
        InputError, match="unknown argument 'loss_wieght'; did you mean 'loss_weight'"
    ):
        load_config(PASCAL, {"model.tasks.saliency.loss_wieght": 2.0})


def test_an_unknown_task_is_refused():
    with pytest.raises(InputError, match=r"task='flow': no such task.*'semseg', 'human_parts'"):
        load_config(NANO, {"task": "flow"})


def test_a_padding_to_a_multiple_gets_no_size():
    cfg = load_config(
        PASCAL,
        {"test_dataloader.dataset.pipeline.1": dict(_delete_=True, type="Pad", size_divisor=32)},
    )
    assert "size" not in _pipeline(cfg, "test_dataloader")["Pad"]
