"""Averaged weights: correct, resumed exactly, and without copies of frozen ones."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from small_runs import LENGTH, SmallRun

from vmt_mm.engine.hooks.averages import EMAHook

CONFIG = Path(__file__).parents[2] / "configs/vmt/vmt_swin-nano_shapes_ema.py"
HOOKS = Config.fromfile(CONFIG).custom_hooks
MOMENTUM = HOOKS[0].momentum


class Averager(Hook):
    """A naive average of the trainable parameters."""

    priority = "VERY_HIGH"

    def __init__(self):
        self.mean, self.model = None, None

    def after_train_iter(self, runner, **_):
        self.model = runner.model
        now = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        if self.mean is None:
            self.mean = now
        else:
            self.mean = {n: (1 - MOMENTUM) * m + MOMENTUM * now[n] for n, m in self.mean.items()}


def options(epochs):
    return {
        "custom_hooks": [dict(hook) for hook in HOOKS],
        "train_cfg.max_epochs": epochs,
        "train_cfg.val_interval": 1,
    }


@pytest.fixture(scope="module")
def averaged(scenes, tmp_path_factory):
    averager = Averager()
    folder = tmp_path_factory.mktemp("averaged")
    return SmallRun(folder, scenes, options(2), [averager]).train(), averager, folder


def read(folder, name):
    return torch.load(folder / name, weights_only=True)


def test_checkpoints_hold_the_averages(averaged):
    _, averager, folder = averaged
    checkpoint = read(folder, "epoch_2.pth")
    for name, expected in averager.mean.items():
        torch.testing.assert_close(
            checkpoint["state_dict"][name], expected, rtol=1e-4, atol=1e-6, msg=name
        )
        trained = dict(averager.model.named_parameters())[name].detach()
        assert torch.equal(checkpoint["ema_state_dict"][f"module.{name}"], trained)
    assert checkpoint["ema_state_dict"]["steps"] == 2 * LENGTH
    best = next(folder.glob("best_*.pth"))
    assert set(read(folder, best.name)["state_dict"]) == set(checkpoint["state_dict"])


def test_frozen_parameters_are_stored_once(averaged):
    run, averager, folder = averaged
    hook = next(h for h in run.runner.hooks if isinstance(h, EMAHook))
    copies = dict(hook.ema_model.module.named_parameters())
    frozen = 0
    for name, parameter in averager.model.named_parameters():
        shared = copies[name].data_ptr() == parameter.data_ptr()
        assert shared is not parameter.requires_grad, name
        frozen += not parameter.requires_grad
    assert frozen > 50
    saved = read(folder, "epoch_2.pth")["ema_state_dict"]
    trains = {name for name, p in averager.model.named_parameters() if p.requires_grad}
    assert {name for name in copies if f"module.{name}" in saved} == trains


def test_a_resumed_training_continues_the_averages(averaged, small_run, tmp_path):
    run, _, folder = averaged
    given = {"load_from": str(folder / "epoch_1.pth"), "resume": True}
    resumed = small_run({**options(2), **given}, folder=tmp_path / "cut").train()
    once, twice = read(folder, "epoch_2.pth"), read(tmp_path / "cut", "epoch_2.pth")
    for part in ("state_dict", "ema_state_dict"):
        for key, value in once[part].items():
            assert torch.equal(value, twice[part][key]), (part, key)
    assert resumed.validations[-1][1] == run.validations[-1][1]


def test_a_test_runs_the_averages(averaged, small_run, tmp_path):
    run, _, folder = averaged
    given = {"load_from": str(folder / "epoch_2.pth")}
    metrics = small_run({**options(2), **given}, folder=tmp_path / "a").test()
    plain = small_run({**given}, folder=tmp_path / "b").test()
    assert metrics == plain
    validated = run.validations[-1][1]
    assert metrics["normals/mErr"] == pytest.approx(validated["normals/mErr"], rel=1e-6)
