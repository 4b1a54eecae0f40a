"""The angle between the tasks' gradients, measured without changing the training."""

import json
import math
import sys
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from commands import CONFIG, options
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from processes import fork_group, run_forked
from run_hooks import At, Killed, kill
from small_runs import LENGTH, SmallRun
from torch import nn

from vmt_mm.analysis import gradient_conflict
from vmt_mm.analysis.gradient_conflict import (
    RECORD_FILE,
    GradientConflictHook,
    add_cosines,
    conflict_table,
    draw_conflicts,
    find_candidates,
    measure_conflict,
    new_record,
    read_record,
    summarize,
    task_losses,
    write_record,
)
from vmt_mm.analysis.tables import render_table
from vmt_mm.engine.loops import seed_iteration
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS, MODELS
from vmt_mm.structures import MultiTaskDataSample

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=5),
    saliency=dict(type="Saliency", loss_weight=5.0),
    normals=dict(type="Normals", loss_weight=10.0),
)
TOOL = "tools/analysis_tools/gradient_conflict.py"
NO_CHECKPOINTS = {"default_hooks.checkpoint.interval": -1, "train_cfg.val_interval": 9}


def make_model(peft="VMTAdapter", **backbone):
    torch.manual_seed(3)
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=TASKS,
            data_preprocessor=dict(type="ImgDataPreprocessor"),
            backbone=dict(
                type="MultiTaskSwin",
                arch="nano",
                allow_random_backbone=True,
                peft=dict(type=peft) if isinstance(peft, str) else peft,
                **backbone,
            ),
            head=dict(type="MLPHead", channels=8),
        )
    )
    model.init_weights()
    for parameter in model.parameters():  # W_up starts at 0, which would hide gradients
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model.train()


def make_batch(seed=0, without=()):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    samples = []
    for _ in images:
        sample = MultiTaskDataSample()
        for name, label in dict(
            semseg=torch.randint(0, 5, (1, 32, 32), generator=generator).byte(),
            saliency=torch.randint(0, 2, (1, 32, 32), generator=generator).byte(),
            normals=torch.randn(3, 32, 32, generator=generator),
        ).items():
            if name not in without:
                sample.set_label(name, label)
        samples.append(sample)
    return dict(inputs=list(images), data_samples=samples)


def losses_of(model, batch):
    seed_iteration(0, 0, 0)  # same dropout each time
    return task_losses(model, torch.stack(batch["inputs"]), batch["data_samples"])


def naive_cosines(model, batch, is_shared):
    """Eqs. 7 and 8: one backward pass per task, flattened gradients, dot products and norms."""
    vectors = []
    for task in TASKS:
        model.zero_grad()
        losses = losses_of(model, batch)
        sum(loss * float(name == task) for name, loss in losses.items()).backward()
        vectors.append(
            torch.cat(
                [
                    parameter.grad.flatten().double()
                    for name, parameter in model.backbone.named_parameters()
                    if parameter.requires_grad and is_shared(name)
                ]
            )
        )
    return [float(a @ b / (a.norm() * b.norm())) for a, b in combinations(vectors, 2)]


def is_own(name):
    return ".alpha." in name or ".gamma." in name


@pytest.mark.parametrize("with_cp", [False, True])
def test_equation_8_on_the_shared_parameters_of_vmt_adapter(with_cp):
    model, batch = make_model(with_cp=with_cp), make_batch()
    cosines, shared = measure_conflict(losses_of(model, batch), find_candidates(model))
    assert all(p.grad is None for p in model.parameters())
    trained = [n for n, p in model.backbone.named_parameters() if p.requires_grad]
    assert shared == [name for name in trained if not is_own(name)]
    assert len(shared) < len(trained)
    expected = naive_cosines(model, batch, lambda name: not is_own(name))
    assert cosines.tolist() == pytest.approx(expected, abs=1e-5)
    assert max(map(abs, expected)) > 0.01


def test_parameters_of_one_task_are_not_shared_in_a_joint_batch():
    model, batch = make_model(dict(type="Hyperformer", ratio=4)), make_batch()
    cosines, shared = measure_conflict(losses_of(model, batch), find_candidates(model))
    assert shared
    assert not [name for name in shared if ".embeddings." in name]
    assert model.backbone.batch_tasks
    model = make_model(dict(type="MTLoRA", rank=2))  # whose tasks are in one batch in some blocks
    cosines, shared = measure_conflict(losses_of(model, batch), find_candidates(model))
    assert shared and not any(name.endswith(tuple(TASKS)) for name in shared)
    model = make_model(dict(type="PerTask", method=dict(type="Adapter")))
    with pytest.raises(InputError, match="it needs a method with shared parameters"):
        measure_conflict(losses_of(model, batch), find_candidates(model))


def test_names_restrict_the_parameters():
    model, batch = make_model(), make_batch()
    chosen = find_candidates(model, r"(down|up)\.weight")
    assert len(chosen) == 2 * len(model.backbone.block_specs)
    cosines, shared = measure_conflict(losses_of(model, batch), chosen)
    expected = naive_cosines(model, batch, lambda name: name in chosen)
    assert cosines.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_wrong_regular_expression_is_refused():
    with pytest.raises(InputError, match="invalid regular expression '\\('"):
        GradientConflictHook(parameters="(")


def test_the_full_encoder_is_shared():
    model, batch = make_model("FullFineTuning"), make_batch()
    cosines, shared = measure_conflict(losses_of(model, batch), find_candidates(model))
    assert shared == [name for name, _ in model.backbone.named_parameters()]
    expected = naive_cosines(model, batch, lambda name: True)
    assert cosines.tolist() == pytest.approx(expected, abs=1e-5)


def toy(*vectors):
    """Losses whose gradients by a shared parameter are these vectors; the first has one more."""
    shared = nn.Parameter(torch.zeros(len(vectors[0])))
    own = nn.Parameter(torch.ones(1))
    losses = {f"task{i}": shared @ torch.tensor(v) for i, v in enumerate(vectors)}
    losses["task0"] = losses["task0"] + 1e3 * own.sum()
    return losses, {"shared": shared, "own": own}


def test_opposite_equal_orthogonal():
    # loss weights and parameters of a single task have no influence
    losses, parameters = toy([1.0, 2.0], [-3.0, -6.0], [0.1, 0.2], [2.0, -1.0])
    cosines, shared = measure_conflict(losses, parameters)
    assert shared == ["shared"]
    # pairs 01 02 03 12 13 23
    assert cosines.tolist() == pytest.approx([-1, 1, 0, -1, 0, 0], abs=1e-6)
    assert cosines.abs().max() <= 1


def test_small_gradients_have_a_cosine_and_zero_ones_none():
    losses, parameters = toy([1e-25, 0.0], [1e-25, 1e-25], [0.0, 0.0], [math.inf, 1.0])
    cosines, _ = measure_conflict(losses, parameters)
    assert cosines[0].item() == pytest.approx(math.sqrt(0.5))
    assert cosines[1:].isnan().all()


def test_a_task_without_a_label_has_no_cosine():
    model = make_model()
    losses = losses_of(model, make_batch(without=("saliency",)))
    cosines, _ = measure_conflict(losses, find_candidates(model))
    assert cosines.isnan().tolist() == [True, False, True]  # semseg - normals is present


def test_unmeasurable_settings_are_refused():
    with pytest.raises(InputError, match="no parameter of the backbone is trainable"):
        find_candidates(make_model("DecodersOnly"))
    with pytest.raises(InputError, match="'nothing' matches none of the names"):
        find_candidates(make_model(), "nothing")
    model = make_model()
    with pytest.raises(InputError, match="none of 48 .* shared by the tasks semseg, saliency"):
        measure_conflict(losses_of(model, make_batch()), find_candidates(model, "alpha|gamma"))
    del model.tasks["semseg"], model.tasks["normals"]
    with pytest.raises(InputError, match=r"at least two tasks, got \['saliency'\]"):
        find_candidates(model)
    for interval in (0, 1.5, True):
        with pytest.raises(InputError, match="`interval` must be a positive integer"):
            GradientConflictHook(interval)


def state(small):
    return small.model.state_dict()


@pytest.fixture(scope="module")
def measured_losses():
    """Losses of each task at every measurement of the run below."""
    return []


@pytest.fixture(scope="module")
def measured(scenes, tmp_path_factory, measured_losses):
    """Three epochs with the hook, registered as by a config."""

    def keep(losses, parameters):
        measured_losses.append({f"loss_{task}": loss.item() for task, loss in losses.items()})
        return measure_conflict(losses, parameters)

    hook = {"custom_hooks": [dict(type="GradientConflictHook")], "train_cfg.max_epochs": 3}
    with mock.patch.object(gradient_conflict, "measure_conflict", keep):
        return SmallRun(tmp_path_factory.mktemp("measured"), scenes, hook).train()


def test_the_training_is_bit_for_bit_the_same(full_run, measured):
    assert measured.losses == full_run.losses  # with the heads' dropout and batch normalisation
    assert measured.validations == full_run.validations
    for name, value in state(full_run).items():
        assert torch.equal(value, state(measured)[name]), name


def test_the_same_while_gradients_accumulate_and_losses_are_watched(small_run, tmp_path):
    settings = {
        **NO_CHECKPOINTS,
        "optim_wrapper.accumulative_counts": 3,
        "default_hooks.finite_loss.on_error": "skip",
        "train_cfg.max_epochs": 2,
    }
    plain = small_run(settings, folder=tmp_path / "plain").train()
    hook = GradientConflictHook(interval=3)
    watched = small_run(settings, hook, folder=tmp_path / "watched").train()
    assert watched.losses == plain.losses
    for name, value in state(plain).items():
        assert torch.equal(value, state(watched)[name]), name
    assert hook.record["iterations"] == [3, 6]


def test_the_gradients_are_those_of_the_training(measured, measured_losses):
    assert len(measured_losses) == 3 * LENGTH
    for number, losses in enumerate(measured_losses, start=1):
        assert losses == {key: measured.losses[number][key] for key in losses}


def test_the_files(measured):
    record = read_record(measured.folder / RECORD_FILE)
    assert record["iterations"] == list(range(1, 3 * LENGTH + 1))
    values = np.array(list(record["cosines"].values()))
    assert values.shape == (6, 3 * LENGTH)
    assert np.abs(values).max() <= 1
    content = json.loads((measured.folder / RECORD_FILE).read_text())
    summary = content["summary"]["semseg - normals"]
    column = np.array(record["cosines"]["semseg - normals"])
    assert summary["mean"] == pytest.approx(column.mean())
    assert summary["share_positive"] == pytest.approx((column > 0).mean())
    assert (summary["count"], summary["without"]) == (3 * LENGTH, 0)
    assert content["summary"]["all pairs"]["count"] == values.size
    assert any(name.endswith("down.weight") for name in content["shared_parameters"])
    assert (measured.folder / "gradient_conflict.png").stat().st_size > 10_000
    assert "semseg - normals" in measured.log


def test_a_resumed_run_continues_the_record(measured, small_run):
    settings = {
        "custom_hooks": [dict(type="GradientConflictHook")],
        "train_cfg.max_epochs": 3,
        "default_hooks.checkpoint.by_epoch": False,
        "default_hooks.checkpoint.interval": 3,
    }
    with pytest.raises(Killed):  # in the middle of the second epoch
        small_run(settings, At("after_train_iter", 7, kill, priority="LOWEST")).train()
    resumed = small_run({**settings, "resume": True}).train()
    assert min(resumed.losses) == 7
    ours, theirs = (read_record(r.folder / RECORD_FILE) for r in (resumed, measured))
    assert ours["iterations"] == theirs["iterations"]
    assert ours["cosines"] == theirs["cosines"]


def test_a_training_of_decoders_only_ends_with_one_message(small_run):
    peft = {"model.backbone.peft": dict(_delete_=True, type="DecodersOnly")}
    small = small_run({**NO_CHECKPOINTS, **peft}, GradientConflictHook())
    with pytest.raises(InputError, match="no parameter of the backbone is trainable"):
        small.train()
    assert not small.losses


def measure_alone(model, rank, wrapped=False):
    """The hook's record after one iteration on the batch of this process."""
    hook = HOOKS.build(dict(type="GradientConflictHook"))
    optimizer = torch.optim.SGD(model.heads.parameters(), lr=0.1)
    runner = SimpleNamespace(
        model=MMDistributedDataParallel(model, device_ids=None) if wrapped else model,
        optim_wrapper=OptimWrapper(optimizer),
        work_dir="absent",
        iter=0,
        message_hub=MessageHub("alone"),
    )
    hook.before_train(runner)
    seed_iteration(0, 0, 0)
    hook.before_train_iter(runner, 0, make_batch(rank))
    return hook.record


def work(rank, folder):
    init_default_scope("vmt_mm")
    record = measure_alone(make_model(), rank, wrapped=True)
    write_record(folder / f"{rank}.json", record)


@pytest.mark.processes
def test_every_process_measures_on_its_own_batch(tmp_path):
    run_forked(__file__, tmp_path)
    gathered = read_record(tmp_path / "0.json")
    assert gathered["iterations"] == [1, 1]
    rows = list(zip(*gathered["cosines"].values(), strict=True))
    for rank, row in enumerate(rows):
        [alone] = zip(*measure_alone(make_model(), rank)["cosines"].values(), strict=True)
        assert row == pytest.approx(alone, abs=1e-4)
    assert rows[0] != pytest.approx(rows[1], abs=1e-2)


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = dict(new_record("abc"), shared_parameters=["w"])
    add_cosines(record, 2, [[0.25, math.nan, -1.0], [0.0, math.nan, 1.0]])
    add_cosines(record, 4, [[-0.5, math.nan, 1.0]])
    write_record(tmp_path / "r.json", record)
    assert "NaN" not in (tmp_path / "r.json").read_text()
    again = read_record(tmp_path / "r.json")
    assert again == record
    assert again["iterations"] == [2, 2, 4]
    summary = summarize(again)
    first = dict(mean=-0.25 / 3, share_positive=1 / 3, share_negative=1 / 3, count=3, without=0)
    assert summary["a - b"] == pytest.approx(first)
    assert summary["a - c"] == dict(
        mean=None, share_positive=None, share_negative=None, count=0, without=3
    )
    assert (summary["all pairs"]["count"], summary["all pairs"]["without"]) == (6, 3)
    table = render_table(conflict_table({"run": again}))
    assert "no value" in table
    assert "-0.083,  33.3%" in table


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"tasks": ["a", "b"], "cosines": {}}'])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"r\.json: not a record of gradient conflict"):
        read_record(path)
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        read_record(tmp_path / "absent.json")


def test_plots_differ_with_their_content():
    rng = np.random.default_rng(0)
    records = {}
    for name, center in (("one", -0.2), ("two", 0.2)):
        records[name] = new_record("abc")
        for number in range(20):
            row = (center + 0.1 * rng.normal(size=3)).tolist()
            add_cosines(records[name], number + 1, [row])
    both, first = draw_conflicts(records), draw_conflicts({"one": records["one"]})
    assert both.dtype == np.uint8
    assert both.shape[2] == 3
    blue, orange = (0, 114, 178), (230, 159, 0)
    assert (both == blue).all(-1).sum() > 1000 < (both == orange).all(-1).sum()
    assert not (first == blue).all(-1).any()
    empty = dict(tasks=["a", "b"], iterations=[1], cosines={"a - b": [None]})
    assert draw_conflicts({"none": empty}).std() > 0


def test_the_tool_compares_a_training_and_a_record(run_tool, measured, scenes, tmp_path):
    arguments = ("--iters", "1", "--work-dir", tmp_path / "out", "--seed", "1")
    small = options(scenes.parent, "train_dataloader.dataset.indices=8")
    record = measured.folder / RECORD_FILE
    output = run_tool(TOOL, CONFIG, record, *arguments, *small).text
    content = json.loads((tmp_path / "out" / RECORD_FILE).read_text())
    assert list(content) == ["vmt_swin-nano_shapes", measured.folder.name]
    assert content["vmt_swin-nano_shapes"]["iterations"] == [1]
    assert content[measured.folder.name] == json.loads(record.read_text())
    assert (tmp_path / "out/gradient_conflict.png").stat().st_size > 10_000
    assert "human_parts - normals" in output
    assert not list((tmp_path / "out").rglob("*.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [CONFIG, "configs/baselines/decoders_swin-nano_shapes.py"],
            "no parameter of the backbone is trainable",
        ),
        ([CONFIG, "--parameters", "alpha"], "none of 32 trainable parameter(s) of the backbone is"),
        ([CONFIG, "--parameters", "nothing"], "'nothing' matches none of the names"),
        ([CONFIG, "absent.json"], "absent.json: cannot be read"),
        ([CONFIG, CONFIG, "--checkpoint", "a.pth"], "got 1 for 2"),
        ([CONFIG, "--iters", "0"], "--iters must be a positive integer"),
        ([CONFIG, "--iters", "2", "--interval", "3"], "must be at least --interval, 3, got 2"),
    ],
)
def test_the_tool_refuses_before_it_trains(run_tool, tmp_path, arguments, message):
    command = (TOOL, *arguments, "--work-dir", tmp_path / "out", *options(tmp_path))
    assert message in run_tool(*command, code=1).err
    assert not list(tmp_path.iterdir())  # no scenes, no work dir


if __name__ == "__main__":
    fork_group(2, Path(sys.argv[1]), partial(work, folder=Path(sys.argv[1])))
