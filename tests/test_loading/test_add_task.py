"""Adding a task to a trained model: the tool's output, and the training that follows."""

from pathlib import Path

import pytest
import torch
from commands import ROOT
from run_hooks import At, Killed, kill
from small_runs import SmallRun, full_run, scenes, small_config  # noqa: F401

from vmt_mm.apis import load_config
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS

TOOL = "tools/misc/add_task.py"
NEW = ("--task", "edge", "--type", "Edge", "--task-options", "loss_weight=5.0")
PREVIOUS = {"semseg", "human_parts", "saliency", "normals"}


@pytest.fixture(scope="module")
def base(scenes, tmp_path_factory):  # noqa: F811
    """The config of the trained model, as a file."""
    path = tmp_path_factory.mktemp("base") / "small.py"
    cfg = small_config(scenes).to_dict()
    path.write_text("\n".join(f"{key} = {value!r}" for key, value in cfg.items()))
    return path


@pytest.fixture(scope="module")
def previous(full_run):  # noqa: F811
    return full_run.folder / "epoch_1.pth"


@pytest.fixture
def added(run_tool, base, previous, tmp_path, monkeypatch):
    """The new config, which starts from the trained model's checkpoint."""
    monkeypatch.chdir(ROOT)
    output = run_tool(TOOL, base, previous, *NEW, "--out-config", tmp_path / "new.py")
    assert f"next: python tools/train.py {tmp_path}/new.py" in output.out
    return tmp_path / "new.py"


def train(config, scenes, folder, *hooks, **options):  # noqa: F811
    return SmallRun(folder, scenes, options, hooks, cfg=load_config(config))


def test_the_new_task_learns_and_the_previous_ones_score_as_before(
    added, base, previous, full_run, scenes, tmp_path  # noqa: F811
):  # fmt: skip
    assert len(added.read_text().splitlines()) < 12
    old = read_checkpoint(str(previous))["state_dict"]
    options = {"train_cfg.max_epochs": 5, "train_cfg.val_interval": 5}
    run = train(added, scenes, tmp_path / "run", **options).train()
    assert all(losses.keys() == {"loss", "loss_edge"} for losses in run.losses.values())
    first, last = ([run.losses[n]["loss"] for n in ns] for ns in (range(1, 5), range(17, 21)))
    assert sum(last) < 0.8 * sum(first)
    # validation scores all tasks: the previous ones as the initial checkpoint did
    ((_, scores),) = run.validations
    before = full_run.validations[0][1]
    assert {key.split("/")[0] for key in before} == PREVIOUS
    assert before.items() <= scores.items()
    assert {key.split("/")[0] for key in scores.keys() - before.keys()} == {"edge"}
    trained = read_checkpoint(str(tmp_path / "run/epoch_5.pth"))["state_dict"]
    assert all("edge" in key.split(".") for key in trained.keys() - old.keys())
    for key, value in old.items():
        assert torch.equal(trained[key], value), key
    assert run.info["best_score"] == scores["edge/boundaryF"]
    assert "which were not trained" not in run.log
    # it is a model of five tasks, for any config with these tasks
    every = load_config(base, {"tasks.edge": dict(type="Edge", loss_weight=5.0)}, training=False)
    every.load_from = str(tmp_path / "run/epoch_5.pth")
    assert SmallRun(tmp_path / "test", scenes, cfg=every).test() == scores


def test_a_resumed_training_is_the_same(added, scenes, tmp_path):  # noqa: F811
    options = {"train_cfg.val_interval": 9, "default_hooks.checkpoint.interval": 1}
    run = train(added, scenes, tmp_path / "full", **options).train()
    stop = At("after_train_iter", 6, kill, priority="LOWEST")
    with pytest.raises(Killed):
        train(added, scenes, tmp_path / "run", stop, **options).train()
    resumed = train(added, scenes, tmp_path / "run", **options, resume=True, load_from=None)
    assert resumed.train().losses == {n: loss for n, loss in run.losses.items() if n > 4}
    names = [tmp_path / folder / "epoch_2.pth" for folder in ("full", "run")]
    one, two = (read_checkpoint(str(name))["state_dict"] for name in names)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_previous_checkpoint_starts_a_training_and_nothing_else(
    added, previous, scenes, tmp_path  # noqa: F811
):  # fmt: skip
    options = dict(load_from=str(previous))
    run = train(added, scenes, tmp_path / "a", At("before_train_iter", 0, kill), **options)
    with pytest.raises(Killed):
        run.train()
    assert "new task(s) with initial values: edge" in run.log
    with pytest.raises(InputError, match="tasks: .* in the checkpoint, .*'edge'"):
        train(added, scenes, tmp_path / "b", **options).test()
    with pytest.raises(InputError, match="tasks: .* in the checkpoint, .*'edge'"):
        train(added, scenes, tmp_path / "c", **options, resume=True).train()


def test_a_separate_head(run_tool, base, previous, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    head = ("--head", "mmseg.FCNHead", "--head-options", "channels=8", "num_convs=1", "in_index=0")
    run_tool(TOOL, base, previous, *NEW, *head, "--out-config", tmp_path / "new.py")
    state = MODELS.build(load_config(tmp_path / "new.py", training=False).model).state_dict()
    assert "heads.edge.conv_seg.weight" in state
    assert "heads.semseg.predict.weight" in state


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--task", "semseg", "--type", "Edge"), "already has a task 'semseg'"),
        (("--task", "edge", "--type", "Edges"), "task 'edge': unknown type 'Edges'; known: "),
        (("--task", "ed-ge", "--type", "Edge"), "task name 'ed-ge' must be a valid identifier"),
        ((*NEW, "--head", "NoHead"), "NoHead"),
        ((*NEW, "--out-config", ROOT / "setup.py"), "setup.py exists already"),
    ],
)
def test_bad_input_writes_nothing(run_tool, base, previous, tmp_path, options, message):
    arguments = (base, previous, "--out-config", tmp_path / "new.py", *options)
    output = run_tool(TOOL, *arguments, code=1).text
    assert output.startswith("error: ")
    assert message in output
    assert list(tmp_path.iterdir()) == []


def test_several_datasets_are_left_to_the_user(run_tool, previous, tmp_path):
    partly = "configs/vmt/vmt_swin-nano_shapes_partly.py"
    arguments = (partly, previous, *NEW, "--out-config", tmp_path / "new.py")
    output = run_tool(TOOL, *arguments, code=1).text
    assert "trains on several or wrapped datasets" in output
    assert "docs/adapters.md" in output
    assert list(tmp_path.iterdir()) == []


def test_the_example_of_the_configs(tmp_path):
    cfg = load_config(ROOT / "configs/vmt/vmt_swin-nano_shapes_add-edge.py")
    assert list(cfg.model.tasks) == ["semseg", "human_parts", "saliency", "normals", "edge"]
    assert list(cfg.model.backbone.tasks) == list(cfg.model.tasks)
    assert list(cfg.train_dataloader.dataset.tasks) == cfg.model.new_tasks == ["edge"]
    assert list(cfg.val_evaluator.tasks) == list(cfg.model.tasks)
    assert cfg.default_hooks.checkpoint.save_best == "edge/boundaryF"
    assert Path(cfg.load_from).name == "epoch_24.pth"  # the last of the config below
