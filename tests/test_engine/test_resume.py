"""A resumed training computes the same as an uninterrupted one.

Losses and metrics are compared as floats with ==; the heads' dropout is on.
"""

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from run_hooks import BEST, At, Killed, Scores, kill
from small_runs import LENGTH, ONE_STEP, SmallRun, later

from vmt_mm.checkpoints.files import newest_checkpoint, read_checkpoint
from vmt_mm.errors import InputError

THREE = {"train_cfg.max_epochs": 3}
EVERY_3 = {"default_hooks.checkpoint.by_epoch": False, "default_hooks.checkpoint.interval": 3}
QUIET = {"default_hooks.checkpoint.interval": -1, "train_cfg.val_interval": 9}
ITER_BASED = {
    **EVERY_3,
    # two and a half passes over the data
    "train_cfg": dict(_delete_=True, type="IterBasedTrainLoop", max_iters=10, val_interval=5),
    "param_scheduler": [dict(type="PolyLR", by_epoch=False, end=10)],
    "log_processor.by_epoch": False,
}


def resume(path):
    return {"resume": True, "load_from": str(path)}


def until(done):
    """A hook that kills the training after this many iterations, when more would add nothing."""
    return At("after_train_iter", done, kill, priority="LOWEST")


def check_same(run, reference, done, end=None):
    """Check that the run equals the reference after iteration ``done``, up to ``end``."""
    end = end or max(reference.losses)
    for name in ("losses", "rates", "epochs", "images"):
        expected = later(getattr(reference.record, name), done)
        expected = {number: value for number, value in expected.items() if number <= end}
        assert getattr(run.record, name) == expected, name
    assert len(run.losses) == end - done


def files(folder, pattern="*.pth"):
    return sorted(path.name for path in folder.glob(pattern))


@pytest.fixture(scope="module")
def by_iteration(scenes, tmp_path_factory):
    """Like ``full_run``, with a checkpoint every three iterations and a worker for data."""
    folder = tmp_path_factory.mktemp("by_iteration")
    return SmallRun(folder, scenes, {**THREE, **EVERY_3}, workers=1, persistent=True).train()


@pytest.fixture(scope="module")
def iter_based(scenes, tmp_path_factory):
    return SmallRun(tmp_path_factory.mktemp("iter_based"), scenes, ITER_BASED, workers=1).train()


def test_the_uninterrupted_reference_runs(full_run, by_iteration):
    assert sorted(full_run.losses) == list(range(1, 3 * LENGTH + 1))
    assert len({losses["loss"] for losses in full_run.losses.values()}) == len(full_run.losses)
    assert [number for number, _ in full_run.validations] == [4, 8, 12]
    assert [full_run.record.epochs[number] for number in (1, 4, 5, 12)] == [0, 0, 1, 2]
    assert full_run.record.rates[1] > full_run.record.rates[2] > full_run.record.rates[12]
    # different because of dropout
    assert full_run.cfg.model.head.get("dropout_ratio", 0.1) == 0.1
    # workers and checkpoint intervals change nothing
    assert by_iteration.losses == full_run.losses
    assert by_iteration.validations == full_run.validations
    # regular checkpoints, and those after a best validation
    assert files(by_iteration.folder, "iter*") == [f"iter_{n}.pth" for n in (12, 3, 4, 6, 8, 9)]


def test_resumed_at_an_epochs_end(small_run, full_run):
    options = {**THREE, **resume(full_run.folder / "epoch_1.pth")}
    run = small_run(options, workers=1, persistent=True).train()
    check_same(run, full_run, done=4)
    # In another folder, the validation of the checkpoint is repeated.
    assert run.validations == full_run.validations
    assert (
        run.info["best_score"] == full_run.info["best_score"] == full_run.validations[-1][1][BEST]
    )
    weights = run.runner.model.state_dict()
    for name, value in full_run.model.state_dict().items():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, True), (2, False)])
def test_resumed_within_an_epoch(small_run, full_run, by_iteration, workers, persistent):
    options = {**THREE, **EVERY_3, **resume(by_iteration.folder / "iter_6.pth")}
    run = small_run(options, until(10), workers=workers, persistent=persistent)
    with pytest.raises(Killed):
        run.train()
    check_same(run, full_run, done=6, end=10)  # the rest of epoch 2 and the start of epoch 3
    assert run.validations == full_run.validations[1:2]


def test_resumed_twice_and_within_the_first_and_the_last_epoch(small_run, full_run):
    for done, end in ((0, 3), (3, 9), (9, 12)):
        run = small_run({**THREE, **EVERY_3, "resume": True}, until(end))
        with pytest.raises(Killed):
            run.train()
        check_same(run, full_run, done, end)
    # The last one ends an epoch before its validation, which is run after resuming, once.
    for expected in (full_run.validations[2:], []):
        run = small_run({**THREE, **EVERY_3, "resume": True}).train()
        assert run.losses == {}
        assert run.validations == expected
        assert run.info["best_score"] == full_run.info["best_score"]


def test_resumed_from_a_count_of_iterations_that_ends_an_epoch(small_run, full_run):
    # The checkpoint is written in the last iteration, before the end of the epoch.
    options = {**THREE, **EVERY_3, "default_hooks.checkpoint.interval": LENGTH, "resume": True}
    with pytest.raises(Killed):
        small_run(options, At("before_val", LENGTH, kill)).train()
    assert newest_checkpoint(small_run().folder).endswith("iter_4.pth")
    run = small_run(options, until(6))
    with pytest.raises(Killed):
        run.train()
    check_same(run, full_run, done=4, end=6)
    assert run.validations == full_run.validations[:1]
    # An epoch without remaining iterations reports no labels.
    assert "were not trained" not in run.log


@pytest.mark.parametrize(("workers", "persistent", "done"), [(0, False, 3), (2, True, 6)])
def test_iterations_over_a_finite_sampler(
    small_run, iter_based, full_run, workers, persistent, done
):
    images = iter_based.record.images
    passes = [sum((images[n] for n in range(a, a + LENGTH)), []) for a in (1, 5)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]
    # as for epochs
    assert later(images, 2) == {n: i for n, i in full_run.record.images.items() if 2 < n <= 10}
    options = {**ITER_BASED, **resume(iter_based.folder / f"iter_{done}.pth")}
    run = small_run(options, workers=workers, persistent=persistent).train()
    check_same(run, iter_based, done)
    assert run.validations == [v for v in iter_based.validations if v[0] > done]
    assert [number for number, _ in iter_based.validations] == [5, 10]


def test_iterations_over_mmengines_infinite_sampler(small_run, tmp_path):
    sampler = {"train_dataloader.sampler": dict(type="InfiniteSampler", _delete_=True)}
    run = small_run({**ITER_BASED, **sampler}, until(8))
    with pytest.raises(Killed):
        run.train()
    resumed = small_run({**ITER_BASED, **sampler, "resume": True}, until(9), workers=1)
    with pytest.raises(Killed):
        resumed.train()
    # Its augmentation is not seeded per sample, so losses differ; images do not.
    assert sorted(resumed.losses) == [7, 8, 9]
    for number in (7, 8):
        assert resumed.record.images[number] == run.record.images[number]
        assert resumed.record.rates[number] == run.record.rates[number]


def test_resumed_while_gradients_accumulate(small_run, tmp_path):
    # The interruption is in the middle of a step's accumulation.
    options = {**QUIET, **EVERY_3, "optim_wrapper.accumulative_counts": 2}
    run = small_run(options, until(6), folder=tmp_path / "first")
    with pytest.raises(Killed):
        run.train()
    resumed = small_run({**options, **resume(run.folder / "iter_3.pth")}, until(6))
    with pytest.raises(Killed):
        resumed.train()
    check_same(resumed, run, done=3)


def test_the_best_score_is_resumed(small_run):
    with pytest.raises(Killed):
        small_run(THREE, Scores({4: 9.0}), At("before_train_epoch", 4, kill)).train()
    run = small_run({**THREE, "resume": True}, Scores({8: 5.0}), until(9))
    with pytest.raises(Killed):
        run.train()
    assert run.info["best_score"] == 9.0
    assert files(run.folder, "best*") == ["best_semseg_mIoU_epoch_1.pth"]
    assert run.info["best_ckpt"] == str(run.folder / "best_semseg_mIoU_epoch_1.pth")


def test_equal_class_names_are_not_another_dataset(small_run, full_run, tmp_path, monkeypatch):
    """mmengine compares pickles, which also depend on which equal strings are one object."""
    checkpoint = read_checkpoint(str(full_run.folder / "epoch_3.pth"))
    names = checkpoint["meta"]["dataset_meta"]
    for own in names.values():
        own["classes"] = tuple("".join(list(name)) for name in own.get("classes", ()))
    torch.save(checkpoint, tmp_path / "epoch_3.pth")
    said = []
    monkeypatch.setattr(MMLogger, "warning", lambda self, text, *_: said.append(text))
    small_run({**THREE, **resume(tmp_path / "epoch_3.pth")}).train()
    assert not [text for text in said if "metainfo" in text]


def test_a_constant_learning_rate(small_run):
    options = {**ONE_STEP, "param_scheduler": None, "resume": True}
    with pytest.raises(Killed):
        small_run(options, At("before_train_epoch", 1, kill)).train()
    assert list(small_run(options).train().losses) == [2]


def test_the_seed_decides(small_run, full_run, tmp_path):
    fixed = {"randomness": dict(seed=7, deterministic=True)}
    runs = [small_run({**QUIET, **fixed}, until(3), folder=tmp_path / name) for name in "ab"]
    for run in runs:
        with pytest.raises(Killed):
            run.train()
    assert runs[0].losses == runs[1].losses
    assert len(runs[0].losses) == 3
    for number, losses in runs[0].losses.items():
        for name, value in losses.items():
            assert value != full_run.losses[number][name]


def test_a_random_seed_is_kept(small_run, tmp_path):
    options, seeds = {**ONE_STEP, "randomness": dict(seed=None)}, []
    note = At("before_run", None, lambda runner: seeds.append(runner.seed))
    np.random.seed(1)
    first = small_run(options, note, folder=tmp_path / "first").train()
    np.random.seed(2)
    path = first.folder / "epoch_1.pth"
    run = small_run({**options, **resume(path)}, note, workers=1).train()
    assert seeds[0] != seeds[1]  # both were drawn at random; the second was discarded
    assert run.runner.seed == seeds[0] == read_checkpoint(str(path))["meta"]["seed"]
    assert run.runner.train_dataloader.sampler.seed == seeds[0]
    check_same(run, first, done=1)
    assert run.validations == first.validations


def test_a_missed_validation_is_run_once(small_run, full_run):
    options = {**THREE, "resume": True}
    with pytest.raises(Killed):
        small_run(options, At("before_val", 4, kill)).train()
    for expected in (full_run.validations[:1], []):  # the second time, it is on record
        run = small_run(options, At("before_train_iter", None, kill))
        with pytest.raises(Killed):
            run.train()
        assert run.validations == expected
        assert run.info["best_score"] == full_run.validations[0][1][BEST]


def test_a_validation_without_a_best_score_is_not_repeated_either(small_run):
    options = {**ONE_STEP, **THREE, "resume": True}
    with pytest.raises(Killed):
        small_run(options, Scores({1: 9.0, 2: 5.0}), At("before_train_epoch", 2, kill)).train()
    run = small_run(options, Scores({3: 7.0})).train()
    assert [number for number, _ in run.validations] == [3]


@pytest.mark.parametrize("batch", [8, 7])
def test_another_batch_size_is_refused(small_run, batch):
    options = {"total_batch_size": 6, "resume": True, **EVERY_3,
               "default_hooks.checkpoint.interval": 1}  # fmt: skip
    with pytest.raises(Killed):
        small_run({**options, "total_batch_size": 4 if batch == 8 else 6}, until(1)).train()
    # 4 batches of 4 or 2 of 8; sizes 6 and 7 both give 2 batches, with different samples
    wanted = "4 batches.*gives 2" if batch == 8 else "6.*7"
    with pytest.raises(InputError, match=wanted):
        small_run({**options, "total_batch_size": batch}).train()
