"""Removing and renaming tasks in files: remaining tasks predict as before, bit for bit."""

import copy

import pytest
import torch
from methods import CASES, METHODS, SWIN, VIT, scatter
from mmengine.config import Config

from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.config.dump import read_config_text
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import export_adapter, load_adapter
from vmt_mm.loading.edit import edit_tasks, edited
from vmt_mm.loading.model import describe, load_model
from vmt_mm.registry import MODELS

TOOL = "tools/model_converters/edit_tasks.py"
TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    normals=dict(type="Normals"),
    depth=dict(type="Depth"),
)
PALETTE = dict(classes=("a", "b", "c", "d"), palette=[(0, 0, 0)] * 4)


def config(peft, on=VIT, **backbone):
    data = dict(type="MultiTaskDataset", data_root="data/rooms", tasks=TASKS)
    return dict(
        tasks=TASKS,
        reference=dict(semseg=50.0, normals=20.0, depth=0.5),
        model=dict(
            type="MultiTaskSegmentor",
            tasks=TASKS,
            backbone={
                "allow_random_backbone": True,
                "tasks": list(TASKS),
                "peft": peft,
                **on.config,
                **backbone,
            },
            head=dict(type="MLPHead", channels=8),
            task_heads=dict(normals=dict(type="MLPHead", channels=4)),
        ),
        train_dataloader=dict(dataset=dict(data, metainfo=dict(semseg=PALETTE))),
        val_evaluator=dict(
            type="MultiTaskEvaluator",
            tasks=TASKS,
            metrics=[dict(type="SegmentationMetric", task="semseg")],
        ),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", save_best="semseg/mIoU")),
    )


def write(path, peft, **options):
    """A model with changed values, and its checkpoint as a training writes it."""
    cfg = config(peft, **options)
    model = MODELS.build(copy.deepcopy(cfg["model"]))
    model.init_weights()
    scatter(model)
    meta = dict(
        vmt_mm=describe(model, cfg["model"]),
        cfg=Config(copy.deepcopy(cfg)).pretty_text,
        dataset_meta=dict(semseg=PALETTE),
        epoch=3,
    )
    state = model.state_dict()
    torch.save(dict(meta=meta, state_dict=state, optimizer={}, message_hub={}), path)
    return model.eval()


def read(path):
    """The model of an edited checkpoint, from the config inside it."""
    checkpoint = read_checkpoint(str(path))
    cfg = Config(read_config_text(checkpoint["meta"]["cfg"], str(path)))
    model = MODELS.build(cfg.model)
    load_model(model, checkpoint, str(path), describe(model, cfg.model))
    return model.eval(), cfg, checkpoint


def logits(model):
    with torch.no_grad():
        return model(torch.randn(1, 3, 40, 48, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["VMTAdapter", "PerTask-LoRA", "Polyhistor", "BitFit"])
def test_remaining_tasks_predict_as_before(name, tmp_path):
    before = logits(write(tmp_path / "a.pth", METHODS["vit"][name].peft))
    tasks = edit_tasks(tmp_path / "a.pth", tmp_path / "b.pth", ("depth",), dict(normals="surface"))
    assert tasks == ["semseg", "surface"]
    model, cfg, checkpoint = read(tmp_path / "b.pth")
    after = logits(model)
    assert after.keys() == set(tasks)
    assert torch.equal(after["semseg"], before["semseg"])
    assert torch.equal(after["surface"], before["normals"])
    assert not any("depth" in key or "normals" in key for key in checkpoint["state_dict"])
    assert checkpoint.keys() == {"meta", "state_dict"}  # the optimizer's state does not fit
    assert checkpoint["meta"]["epoch"] == 3


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_groups_of_tasks_follow(suffix, tmp_path):
    """A group without tasks is removed, with its weights."""
    groups = dict(flat=["semseg", "depth"], shape=["normals"])
    method = dict(type="Adapter", ratio=4)
    peft = dict(type="PerTask", method=method, groups=groups, tasks_from_stage=3)
    before = logits(write(tmp_path / "a.pth", peft))
    paths = [tmp_path / "a.pth", tmp_path / f"b{suffix}"]
    if suffix == ".safetensors":
        cfg = Config(read_config_text(read_checkpoint(str(paths[0]))["meta"]["cfg"], ""))
        paths[0] = tmp_path / f"a{suffix}"
        export_adapter(cfg, tmp_path / "a.pth", paths[0])
    tasks = edit_tasks(*paths, ("normals",), dict(depth="metres"))
    assert sorted(tasks) == ["metres", "semseg"]
    model = load_adapter(paths[1]) if suffix == ".safetensors" else read(paths[1])[0]
    assert model.backbone.peft.groups == dict(flat=["semseg", "metres"])
    assert not any("shape" in key for key in model.state_dict())
    after = logits(model)
    assert torch.equal(after["semseg"], before["semseg"])
    assert torch.equal(after["metres"], before["depth"])


@pytest.mark.parametrize("case", CASES)
def test_every_method_can_lose_and_rename_tasks(case, tmp_path):
    """Names of two tasks are swapped, so that nothing depends on how a name looks."""
    before = write(tmp_path / "a.pth", case.row.peft, on=case.on)
    names = dict(normals="depth", depth="norm")
    edit_tasks(tmp_path / "a.pth", tmp_path / "b.pth", ("semseg",), names)
    state = read_checkpoint(str(tmp_path / "b.pth"))["state_dict"]
    for key, value in before.state_dict().items():
        if "semseg" in key.split("."):
            continue
        new = ".".join(names.get(part, part) for part in key.split("."))
        assert torch.equal(state[new], value), key


def test_the_config_follows(tmp_path):
    names = dict(semseg=None, normals="normals", depth="distance")
    cfg = edited(config(dict(type="VMTAdapter")), names)
    expected = dict(normals=TASKS["normals"], distance=TASKS["depth"])
    for tasks in (
        cfg["tasks"],
        cfg["model"]["tasks"],
        cfg["train_dataloader"]["dataset"]["tasks"],
        cfg["val_evaluator"]["tasks"],
    ):
        assert tasks == expected
        assert list(tasks) == list(expected)
    assert cfg["model"]["backbone"]["tasks"] == ["normals", "distance"]
    assert cfg["model"]["task_heads"].keys() == {"normals"}
    assert cfg["reference"] == dict(normals=20.0, distance=0.5)
    assert cfg["train_dataloader"]["dataset"]["metainfo"] == {}
    assert cfg["val_evaluator"]["metrics"] == []
    assert cfg["default_hooks"]["checkpoint"]["save_best"] is None
    names = dict(semseg="classes", normals="normals", depth="depth")
    renamed = edited(config(dict(type="VMTAdapter")), names)
    assert renamed["default_hooks"]["checkpoint"]["save_best"] == "classes/mIoU"
    assert renamed["val_evaluator"]["metrics"][0]["task"] == "classes"
    assert renamed["train_dataloader"]["dataset"]["metainfo"] == dict(classes=PALETTE)


def test_a_dataset_without_tasks_is_removed_with_its_weight():
    members = [dict(type="MultiTaskDataset", data_root=t, tasks={t: TASKS[t]}) for t in TASKS]
    cfg = dict(
        train_dataloader=dict(
            sampler=dict(type="SeededSampler", balance=[1, 2, 3]),
            dataset=dict(type="ConcatDataset", datasets=members),
        )
    )
    names = dict(semseg="semseg", normals=None, depth="depth")
    loader = edited(cfg, names)["train_dataloader"]
    assert [d["data_root"] for d in loader["dataset"]["datasets"]] == ["semseg", "depth"]
    assert loader["sampler"]["balance"] == [1, 3]
    assert cfg["train_dataloader"]["sampler"]["balance"] == [1, 2, 3]
    assert len(cfg["train_dataloader"]["dataset"]["datasets"]) == 3


@pytest.mark.parametrize(
    ("best", "left"),
    [
        ("delta", None),
        ("auto", "auto"),
        (["semseg/mIoU", "depth/rmse", "delta"], ["distance/rmse"]),
        (["semseg/mIoU"], None),
    ],
)
def test_the_best_checkpoint_follows_its_task(best, left):
    names = dict(semseg=None, normals="normals", depth="distance")
    assert edited(dict(save_best=best, rule="less"), names) == dict(save_best=left, rule=None)


def test_an_adapter_file(tmp_path):
    options = dict(
        pretrained="vmt_mm://swin_nano", allow_random_backbone=False, depths=(2, 2, 2, 2)
    )
    write(tmp_path / "a.pth", dict(type="VMTAdapter"), on=SWIN, **options)
    cfg = Config(config(dict(type="VMTAdapter"), SWIN, **options))
    export_adapter(cfg, tmp_path / "a.pth", tmp_path / "a.safetensors")
    before = logits(load_adapter(tmp_path / "a.safetensors"))
    out = tmp_path / "b.safetensors"
    edit_tasks(tmp_path / "a.safetensors", out, ("normals",), dict(semseg="classes"))
    model = load_adapter(out)
    after = logits(model)
    assert list(after) == list(model.dataset_meta) == ["classes", "depth"]
    assert torch.equal(after["classes"], before["semseg"])
    assert torch.equal(after["depth"], before["depth"])
    assert list(model.dataset_meta["classes"]["classes"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--remove", "edge"], "unknown task(s) ['edge']; known: ['semseg', 'normals',"),
        (["--rename", "edge=lines"], "unknown task(s) ['edge']"),
        (["--remove", *TASKS], "the tasks would be []; at least one must remain"),
        (["--rename", "semseg=depth"], "the tasks would be ['depth', 'normals', 'depth']"),
        (["--rename", "semseg=a.b"], "the tasks would be ['a.b', 'normals', 'depth']"),
        (["--rename", "semseg"], "--rename must be OLD=NEW, with each task once, got 'semseg'"),
        (["--remove", "semseg", "--rename", "semseg=a"], "give --remove NAME or --rename OLD=NEW"),
        ([], "give --remove NAME or --rename OLD=NEW"),
    ],
)
def test_bad_input(run_tool, arguments, message, tmp_path):
    write(tmp_path / "a.pth", dict(type="DecodersOnly"))
    output = run_tool(TOOL, tmp_path / "a.pth", tmp_path / "b.pth", *arguments, code=1).text
    assert output.count("error: ") == 1
    assert message in output
    assert not (tmp_path / "b.pth").exists()


def test_files_that_say_nothing_of_their_tasks(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / "a.pth")
    with pytest.raises(InputError, match="expected a checkpoint of tools/train.py"):
        edit_tasks(tmp_path / "a.pth", tmp_path / "b.pth", ("semseg",))
    with pytest.raises(InputError, match="must end with .pth"):
        edit_tasks(tmp_path / "a.pth", tmp_path / "b.safetensors", ("semseg",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = open('/etc/passwd')", "line 1: .*Call"),
        ("a = 1\nimport os", "line 2 is not an assignment"),
        ("a = dict(b=[1, (2, print())])", "line 1: .*Call"),
        ("a = dict(**c)", "line 1: .*Name"),
        ("a = b = 1", "line 1 is not an assignment"),
        ("a = (", "cannot be read"),
        ("", "the config is empty"),
        (None, "cannot be read"),
    ],
)
def test_a_config_text_is_never_run(text, message):
    with pytest.raises(InputError, match=message):
        read_config_text(text, "file")


def test_a_config_text_is_read_as_it_was_written():
    cfg = dict(a=dict(b=[1, (2.5, -3)], c=None), d={"e-f": True, 3: "x"}, g=1e-4)
    assert read_config_text(Config(cfg).pretty_text, "file") == cfg
