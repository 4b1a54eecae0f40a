"""Trainings that warp images on the model's device."""

import warnings

import pytest
import torch
from run_hooks import At, Killed, kill
from small_runs import LENGTH, SmallRun, later

from vmt_mm.checkpoints.files import newest_checkpoint, read_checkpoint
from vmt_mm.engine import runner as runner_module
from vmt_mm.engine.runner import MultiTaskRunner

ON_DEVICE = {"train_dataloader.dataset.pipeline.2.on_device": True}


@pytest.fixture(scope="module")
def warped(scenes, tmp_path_factory):
    """Two uninterrupted epochs."""
    return SmallRun(tmp_path_factory.mktemp("warped"), scenes, ON_DEVICE).train()


def test_it_trains_on_the_images_of_the_workers(warped, full_run):
    assert sorted(warped.losses) == list(range(1, 2 * LENGTH + 1))
    assert warped.record.images == {
        k: v for k, v in full_run.record.images.items() if k <= 2 * LENGTH
    }
    for name, value in warped.losses[1].items():
        assert value == pytest.approx(full_run.losses[1][name], rel=0.02), name
    state = read_checkpoint(str(newest_checkpoint(warped.folder)))["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())
    assert [number for number, _ in warped.validations] == [LENGTH, 2 * LENGTH]


def test_workers_and_interruptions_change_nothing(warped, small_run):
    cut = small_run(
        ON_DEVICE, At("after_train_iter", LENGTH + 1, kill, priority="LOWEST"), workers=2
    )
    with pytest.raises(Killed):
        cut.train()
    assert cut.losses == {k: v for k, v in warped.losses.items() if k <= LENGTH + 1}
    again = small_run({**ON_DEVICE, "resume": True}, workers=1).train()
    assert again.losses == later(warped.losses, LENGTH)
    assert again.validations == warped.validations[1:]


def test_memory_is_pinned_where_a_device_copies_from_it(warped, monkeypatch):
    cfg = warped.cfg.train_dataloader
    assert cfg.pin_memory
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader = MultiTaskRunner.build_dataloader(cfg, seed=0)
        next(iter(loader))
    assert loader.pin_memory == torch.cuda.is_available()
    monkeypatch.setattr(runner_module, "get_device", lambda: "cuda")
    assert MultiTaskRunner.build_dataloader(cfg, seed=0).pin_memory
    assert MultiTaskRunner.build_dataloader(loader) is loader
    assert cfg.pin_memory
