"""A resumed training may list its tasks in another order; a different training is refused."""

import pytest
from mmengine.config import Config
from run_hooks import At, Killed, kill
from small_runs import LENGTH, ONE_STEP, later

from vmt_mm.apis import load_config
from vmt_mm.checkpoints.files import read_checkpoint
from vmt_mm.errors import InputError

THREE = {"train_cfg.max_epochs": 3}


def resume(path, options=None):
    return {**THREE, "resume": True, "load_from": str(path), **(options or {})}


def reordered(cfg):
    """The config with every dictionary and list of tasks reversed."""
    names = list(cfg.tasks)

    def turn(node):
        if isinstance(node, dict):
            items = [(key, turn(value)) for key, value in node.items()]
            return dict(reversed(items) if set(node) == set(names) else items)
        if isinstance(node, (list, tuple)):
            same = [str(x) for x in node] == names
            return type(node)(turn(x) for x in (reversed(node) if same else node))
        return node

    return Config(turn(cfg.to_dict()))


def test_tasks_in_another_order(small_run, full_run):
    cfg = reordered(small_run().cfg)
    assert list(cfg.tasks) == list(full_run.cfg.tasks)[::-1]
    run = small_run(resume(full_run.folder / "epoch_2.pth"), cfg=cfg).train()
    assert run.losses == later(full_run.losses, 2 * LENGTH)
    assert run.validations[-1][1] == full_run.validations[-1][1]


def test_the_config_that_a_run_writes(small_run, full_run):
    dumped = full_run.folder / "vmt_swin-nano_shapes.py"
    for path in (dumped, next(full_run.folder.glob("*/vis_data/config.py"))):
        assert list(Config.fromfile(path).tasks) == list(full_run.cfg.tasks)
    run = small_run(resume(full_run.folder / "epoch_2.pth"), cfg=load_config(dumped)).train()
    assert run.losses == later(full_run.losses, 2 * LENGTH)
    # and when started from scratch
    run = small_run(THREE, At("after_train_iter", 2, kill, "LOWEST"), cfg=load_config(dumped),
                    folder=run.folder / "start")  # fmt: skip
    with pytest.raises(Killed):
        run.train()
    assert run.losses == {n: full_run.losses[n] for n in (1, 2)}
    text = read_checkpoint(str(full_run.folder / "epoch_1.pth"))["meta"]["cfg"]
    assert text == dumped.read_text()


OTHERS = {
    "optimizer": ({"optim_wrapper.optimizer": dict(type="SGD", lr=1e-4, _delete_=True)},
                  "the optimizer: 'Adam' in the checkpoint, 'SGD' in the config"),
    "lr": ({"optim_wrapper.optimizer.lr": 1.0}, "lr of .* in the checkpoint, 1.0 in the config"),
    "schedule": ({"param_scheduler": [dict(type="MultiStepLR", milestones=[1])]},
                 r"schedules: \['PolyLR'\] in the checkpoint, \['MultiStepLR'\] in the config"),
    "no schedule": ({"param_scheduler": None}, r"schedules: \['PolyLR'\] in the checkpoint, \[\]"),
    "averages": ({"custom_hooks": [dict(type="EMAHook")]}, "only the config has averages"),
    "wrapper": ({"optim_wrapper.type": "BFloat16OptimWrapper"}, "optim_wrapper.type: 'OptimW"),
    "parameters": ({"model.new_tasks": ["semseg"]}, r"train only in the checkpoint: backbone\."),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_another_training_is_refused(small_run, full_run, case):
    options, message = OTHERS[case]
    path = full_run.folder / "epoch_2.pth"
    run = small_run(resume(path, options))
    with pytest.raises(InputError, match=message) as caught:
        run.train()
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"set load_from={path} without --resume")
    assert run.losses == {}


def test_a_longer_training_may_be_resumed_again_and_again(small_run):
    for epochs in (1, 2, 3):
        run = small_run({**ONE_STEP, "train_cfg.max_epochs": epochs, "resume": True}).train()
        assert list(run.losses) == [epochs]


def test_averages_are_not_dropped(small_run):
    options = {**ONE_STEP, "custom_hooks": [dict(type="EMAHook")], "train_cfg.max_epochs": 1}
    run = small_run(options).train()
    with pytest.raises(InputError, match="only the checkpoint has averages"):
        small_run({**THREE, **ONE_STEP, "resume": True}, folder=run.folder).train()


def test_a_config_without_the_batch_of_a_process_divides_the_total_again(small_run):
    run = small_run(ONE_STEP)
    del run.cfg.train_dataloader["batch_size"]
    run.train()
    assert run.runner.train_dataloader.batch_size == run.cfg.total_batch_size
