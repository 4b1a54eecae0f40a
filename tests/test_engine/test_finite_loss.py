"""No optimizer step uses a NaN or Inf loss, and finite trainings are unchanged."""

import gc
import math
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from run_hooks import At, Killed, kill
from small_runs import LENGTH, ONE_STEP

from vmt_mm.engine.hooks.stopping import FiniteLossHook
from vmt_mm.errors import InputError

SKIP = {"default_hooks.finite_loss.on_error": "skip"}
TWO_STEPS = {"optim_wrapper.accumulative_counts": 2}
QUIET = {"default_hooks.checkpoint.interval": -1, "train_cfg.val_interval": 9}


def spoil(task, *numbers, value=math.nan):
    """Set a task's loss to NaN or Inf in some iterations."""

    def act(runner):
        entry = runner.model.tasks[task]
        vars(entry).pop("loss", None)  # undo the patch of the last iteration
        if runner.iter + 1 in numbers:
            loss = entry.loss
            entry.loss = lambda logits, target: loss(logits, target) * value

    return At("before_train_iter", None, act)


def until(done):
    return At("after_train_iter", done, kill, priority="LOWEST")


class States:
    """Records parameters, the optimizer's state and the model's buffers before each iteration."""

    def __init__(self):
        self.kept = {}
        self.hooks = (
            At("before_train_iter", None, lambda runner: self.keep(runner, runner.iter)),
            At(
                "after_train_iter",
                None,
                lambda runner: self.keep(runner, runner.iter + 1),
                priority="LOWEST",
            ),
        )

    def keep(self, runner, done):
        model = runner.model
        state = {f"parameter {n}": p for n, p in model.named_parameters() if p.requires_grad}
        state.update({f"buffer {n}": b for n, b in model.named_buffers() if "running" in n})
        state.update({f"buffer {n}": b for n, b in model.named_buffers() if "num_batches" in n})
        for number, entry in runner.optim_wrapper.optimizer.state_dict()["state"].items():
            state.update({f"optimizer {number} {key}": value for key, value in entry.items()})
        self.kept[done] = {name: value.detach().clone() for name, value in state.items()}

    def changed(self, before, after, kind):
        """Names of entries that differ, and of those that only one side has."""
        first, second = (
            {name: value for name, value in self.kept[done].items() if name.startswith(kind)}
            for done in (before, after)
        )
        differ = {n for n in first.keys() & second.keys() if not torch.equal(first[n], second[n])}
        return differ | (first.keys() ^ second.keys())


def parts(message):
    """The message, split at the image names."""
    head, _, images = message.partition(" on images ")
    return head, [Path(name).stem for name in images.partition(";")[0].split(", ")]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stop_says_where_and_changes_no_weight(small_run, full_run, value):
    states = States()
    run = small_run(QUIET, *states.hooks, spoil("saliency", 7, value=value))
    with pytest.raises(InputError) as caught:
        run.train()
    message, images = parts(str(caught.value))
    assert message == f"epoch 2, iteration 7: loss_saliency = {value}"
    assert images == full_run.record.images[7]
    states.keep(run.runner, 7)
    assert not states.changed(6, 7, "parameter")
    assert not states.changed(6, 7, "optimizer")
    assert states.changed(5, 6, "parameter")
    assert sorted(run.losses) == [1, 2, 3, 4, 5, 6]


def test_every_task_that_is_wrong_is_named(small_run):
    run = small_run(QUIET, spoil("normals", 1), spoil("semseg", 1, value=-math.inf))
    with pytest.raises(InputError) as caught:
        run.train()
    message, images = parts(str(caught.value))
    assert message == "epoch 1, iteration 1: loss_semseg = -inf, loss_normals = nan"
    assert len(images) == LENGTH


def test_skip_leaves_everything_as_it_was(small_run, full_run):
    states = States()
    options = {**QUIET, **SKIP}
    run = small_run(options, *states.hooks, spoil("normals", 3), until(5))
    with pytest.raises(Killed):
        run.train()
    assert sorted(run.losses) == [1, 2, 3, 4, 5]
    for kind in ("parameter", "optimizer", "buffer"):
        assert not states.changed(2, 3, kind)
        assert states.changed(1, 2, kind)
        assert states.changed(3, 4, kind)
    assert {n: run.losses[n] for n in (1, 2)} == {n: full_run.losses[n] for n in (1, 2)}
    assert not math.isfinite(run.losses[3]["loss_normals"])
    for number in (4, 5):
        assert all(math.isfinite(value) for value in run.losses[number].values())
    assert "iteration 3: loss_normals" in run.log
    assert "step skipped, 1 of 10" in run.log


def test_the_first_step_of_all_can_be_skipped(small_run):
    states = States()
    options = {**QUIET, **SKIP}
    run = small_run(options, *states.hooks, spoil("semseg", 1), until(2))
    with pytest.raises(Killed):
        run.train()
    for kind in ("parameter", "optimizer", "buffer"):
        assert not states.changed(0, 1, kind)
        assert states.changed(1, 2, kind)


def test_no_more_steps_are_skipped_than_allowed(small_run):
    options = {**QUIET, **SKIP, "default_hooks.finite_loss.max_skips": 2}
    states = States()
    run = small_run(options, *states.hooks, spoil("semseg", 1, 3, 4))
    with pytest.raises(InputError, match="iteration 4: .*2 steps have already been skipped"):
        run.train()
    assert sorted(run.losses) == [1, 2, 3]
    states.keep(run.runner, 4)
    assert not states.changed(3, 4, "parameter")


@pytest.mark.parametrize("kind", ["DynamicWeightAverage", "FAMO", "Uncertainty"])
def test_a_skipped_step_leaves_the_weighting_as_it_was(small_run, kind):
    options = {**QUIET, **SKIP, "model.weighting": dict(type=kind)}
    run = small_run(options, spoil("normals", 3), until(5))
    with pytest.raises(Killed):
        run.train()
    assert math.isnan(run.losses[3]["loss_normals"])
    for number in (4, 5):  # also the weights
        assert all(math.isfinite(value) for value in run.losses[number].values())
    state = run.runner.model.weighting.state
    assert all(not x.isnan().any() for key, x in state.items() if key in ("sum", "parameters"))


@pytest.mark.parametrize("number", [3, 4])
def test_stop_while_gradients_accumulate(small_run, number):
    # Only iteration 4 makes a step, with the gradients of iterations 3 and 4.
    states = States()
    options = {**QUIET, **TWO_STEPS}
    run = small_run(options, *states.hooks, spoil("saliency", number))
    with pytest.raises(InputError, match=f"epoch 1, iteration {number}: loss_saliency = nan"):
        run.train()
    states.keep(run.runner, number)
    assert states.changed(1, 2, "parameter")
    assert not states.changed(2, number, "parameter")
    assert not states.changed(2, number, "optimizer")


@pytest.mark.parametrize("number", [3, 4])
def test_skip_while_gradients_accumulate(small_run, number):
    states = States()
    options = {**QUIET, **TWO_STEPS, **SKIP}
    run = small_run(options, *states.hooks, spoil("saliency", number), until(6))
    with pytest.raises(Killed):
        run.train()
    assert not states.changed(number - 1, number, "buffer")
    assert not states.changed(number - 1, number, "parameter")
    if number == 4:
        assert not states.changed(2, 4, "parameter")
        assert not states.changed(2, 4, "optimizer")
    assert states.changed(4, 6, "parameter")
    assert all(value.isfinite().all() for value in states.kept[6].values())
    assert run.log.count("step skipped") == 1


@pytest.mark.parametrize("on_error", ["skip", None])
def test_a_finite_training_is_unchanged(small_run, full_run, on_error):
    options = {
        **QUIET,
        "train_cfg.max_epochs": 3,
        "default_hooks.finite_loss.on_error": "?",
    }
    run = small_run(options, until(6))
    if on_error is None:
        del run.cfg.default_hooks["finite_loss"]
    else:
        run.cfg.default_hooks.finite_loss.on_error = on_error
    with pytest.raises(Killed):
        run.train()
    names = [type(hook).__name__ for hook in run.runner.hooks]
    assert ("FiniteLossHook" in names) == (on_error is not None)
    assert run.losses == {n: losses for n, losses in full_run.losses.items() if n <= 6}


def test_accumulation_is_unchanged(small_run):
    losses = []
    for with_hook in (True, False):
        run = small_run({**QUIET, **TWO_STEPS}, until(4))
        if not with_hook:
            del run.cfg.default_hooks["finite_loss"]
        with pytest.raises(Killed):
            run.train()
        losses.append(run.losses)
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


@pytest.mark.parametrize("wrong", [(), (2,)])
def test_a_model_that_outlives_its_training_keeps_no_runner(small_run, wrong):
    run = small_run({**QUIET, **ONE_STEP}, spoil("semseg", *wrong))
    with pytest.raises(InputError) if wrong else nullcontext():
        run.train()
    model, runner = run.model, weakref.ref(run.runner)
    del run
    gc.collect()
    assert model is not None
    assert runner() is None


def test_an_unknown_way():
    with pytest.raises(InputError, match="on_error='ignore' must be 'raise' or 'skip'"):
        FiniteLossHook(on_error="ignore")
