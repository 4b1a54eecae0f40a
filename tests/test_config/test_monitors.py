"""Monitors of a validation result get the right direction, or an error explains why not."""

import copy
from pathlib import Path

import pytest
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric

from vmt_mm.config import load_config
from vmt_mm.config.monitors import derive_rules, rule_faults
from vmt_mm.registry import METRICS

PASCAL = Path(__file__).parents[2] / "configs/vmt/vmt_swin-t_pascal.py"
_TASKS = dict(
    floor=dict(type="Segmentation", num_classes=2),
    depth=dict(type="Depth"),
    normals=dict(type="Normals"),
)


@METRICS.register_module(force=True)
class Undeclared(BaseMetric):
    """A user's metric that declares no results."""

    def process(self, data_batch, data_samples):
        """Nothing."""

    def compute_metrics(self, results):
        """Nothing."""
        return {}


def _config(hook=None, metrics=(), **parts):
    dataset = dict(
        type="MultiTaskDataset", data_root="data", metainfo=dict(floor=dict(classes=["no", "oak"]))
    )
    return ConfigDict(
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", **(hook or {}))),
        val_evaluator=dict(type="MultiTaskEvaluator", tasks=_TASKS, metrics=list(metrics)),
        val_dataloader=dict(dataset=dataset),
        **parts,
    )  # fmt: skip


def _rule(**hook):
    cfg = _config(hook)
    before = copy.deepcopy(cfg)
    assert list(rule_faults(cfg, training=True)) == []
    derived = derive_rules(cfg)["default_hooks"]["checkpoint"]
    assert cfg == before  # what the user wrote is kept
    return derived["save_best"], derived["rule"]


def _fault(hook=None, **parts):
    (fault,) = rule_faults(_config(hook, **parts), training=True)
    return fault


@pytest.mark.parametrize(
    ("best", "rule"),
    [
        ("depth/abs_rel", "less"),
        ("normals/median", "less"),
        ("depth/delta_1", "greater"),
        ("floor/IoU/oak", "greater"),
        (["depth/abs_rel", "floor/mIoU"], ["less", "greater"]),
    ],
)
def test_the_best_checkpoint(best, rule):
    assert _rule(save_best=best) == (best, rule)


def test_auto_is_the_first_result():
    assert _rule(save_best="auto") == ("floor/mIoU", "greater")


def test_a_rule_that_says_the_same_is_fine():
    assert _rule(save_best="depth/rmse", rule="less") == ("depth/rmse", "less")


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("EarlyStoppingHook", "custom_hooks"),
        ("mmengine.EarlyStoppingHook", "custom_hooks"),
        ("ReduceOnPlateauLR", "param_scheduler"),
        ("ReduceOnPlateauMomentum", "param_scheduler"),
    ],
)
def test_early_stopping_and_schedules(kind, place):
    for monitor, rule in (("depth/rmse", "less"), ("floor/mIoU", "greater")):
        derived = derive_rules(_config(**{place: [dict(type=kind, monitor=monitor)]}))
        assert derived[place][0]["rule"] == rule
    fault = _fault(**{place: [dict(type=kind, monitor="floor/mIuO")]})
    assert fault.startswith(f"{place}[0].monitor: no metric in val_evaluator computes 'floor/mIuO'")
    assert "did you mean 'floor/mIoU'" in fault
    fault = _fault(**{place: [dict(type=kind, monitor="floor/mIoU", rule="less")]})
    assert fault.startswith(f"{place}[0].rule: 'less' is wrong for 'floor/mIoU': its direction")


def test_a_schedule_without_a_monitor_goes_by_nothing():
    assert "computes 'loss'" in _fault(param_scheduler=dict(type="ReduceOnPlateauLR"))


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (dict(save_best="depth/abs_re"), "computes 'depth/abs_re'; did you mean 'depth/abs_rel'?"),
        (dict(save_best="floor/IoU/ok"), "did you mean 'floor/IoU/oak'?"),
        (dict(save_best="mIoU"), "did you mean 'floor/mIoU'?"),
        (dict(save_best="floor/images"), "'floor/images' does not measure quality; did you mean"),
        (dict(save_best="delta"), "no reference scores, so delta is missing; set default_hooks"),
        (dict(save_best="depth/rmse", rule="greater"), "'greater' is wrong for 'depth/rmse'"),
        (
            dict(save_best=["depth/rmse", "floor/mIoU"], rule="less"),
            "'less' is wrong for 'floor/mIoU'",
        ),
    ],
)
def test_impossible_monitors_are_refused_before_a_training(hook, message):
    assert message in _fault(hook)


def test_a_test_needs_no_delta():
    cfg = _config(dict(save_best="delta"))
    assert list(rule_faults(cfg, training=False)) == []
    assert derive_rules(cfg)["default_hooks"]["checkpoint"]["rule"] == "greater"


def test_a_metric_that_declares_nothing_needs_a_rule():
    metrics = [dict(type="Undeclared", prefix="mine")]
    assert "set default_hooks.checkpoint.rule" in _fault(dict(save_best="mine/x"), metrics=metrics)
    cfg = _config(dict(save_best="mine/x", rule="less"), metrics)
    assert list(rule_faults(cfg, training=True)) == []
    assert derive_rules(cfg)["default_hooks"]["checkpoint"]["rule"] == "less"


def test_without_a_validation_no_rule_is_needed():
    assert (
        list(rule_faults(dict(default_hooks=_config(dict(save_best="x")).default_hooks), True))
        == []
    )


def test_configs_need_no_rule():
    cfg = load_config(PASCAL, {"default_hooks.checkpoint.save_best": "normals/mErr"})
    assert "rule" not in cfg.default_hooks.checkpoint
    assert list(rule_faults(cfg, training=True)) == []
