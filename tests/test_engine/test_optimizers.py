"""Tests of the optimizer's constructor: trainable parameters and their options."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from torch import nn

from vmt_mm.engine.optimizers import TrainableOnlyConstructor
from vmt_mm.errors import InputError
from vmt_mm.registry import PARAM_SCHEDULERS
from vmt_mm.utils.compat import FUSES_ON_CPU, autocast_dtype

_CFG = dict(optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.02))


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.frozen = nn.Linear(4, 3).requires_grad_(False)
        self.backbone.adapter = nn.Linear(3, 3)
        self.backbone.adapter_norm = nn.LayerNorm(3)
        self.heads = nn.ModuleDict({name: nn.Linear(3, 2) for name in "abc"})
        self.heads["c"].bias.requires_grad_(False)


def _names(model: nn.Module, group: dict) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for p in group["params"]}


def _trainable(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def _groups(custom_keys: dict, model: nn.Module) -> dict[tuple[float, float], set[str]]:
    """(lr, weight decay) -> names."""
    build = TrainableOnlyConstructor(_CFG, dict(custom_keys=custom_keys))
    # mmengine's wrapper adds a group without parameters to its own `param_groups`.
    groups = build(model).optimizer.param_groups
    content = {(g["lr"], g["weight_decay"]): _names(model, g) for g in groups}
    assert len(content) == len(groups)
    return content


@pytest.mark.parametrize("wrapped", [False, True])
def test_only_trainable_parameters_in_one_group(wrapped: bool) -> None:
    model = _Toy()
    wrapper = TrainableOnlyConstructor(_CFG)(SimpleNamespace(module=model) if wrapped else model)
    assert type(wrapper) is OptimWrapper
    assert type(wrapper.optimizer) is torch.optim.AdamW
    (group,) = wrapper.optimizer.param_groups
    assert len(group["params"]) == 9
    assert _names(model, group) == _trainable(model)
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.02)


def test_custom_keys() -> None:
    model = _Toy()
    groups = _groups(
        {
            "backbone": dict(lr_mult=0.5),
            "norm": dict(decay_mult=0.0),
            "adapter_norm": dict(lr_mult=2.0, decay_mult=0.0),  # longer than the other two
            "heads.b": dict(lr_mult=0.5),  # same options as the backbone's: no further group
        },
        model,
    )
    assert groups == {
        (0.1 * 0.5, 0.02): {
            "backbone.adapter.weight",
            "backbone.adapter.bias",
            "heads.b.weight",
            "heads.b.bias",
        },
        (0.1 * 2.0, 0.0): {"backbone.adapter_norm.weight", "backbone.adapter_norm.bias"},
        (0.1, 0.02): {"heads.a.weight", "heads.a.bias", "heads.c.weight"},
    }


def test_longest_match_wins_in_any_order() -> None:
    keys = {"heads.a": dict(lr_mult=3.0), "heads": dict(lr_mult=0.5)}
    expected = {"heads.a.weight", "heads.a.bias"}
    for custom_keys in (keys, dict(reversed(keys.items()))):
        assert _groups(custom_keys, _Toy())[0.1 * 3.0, 0.02] == expected


def test_same_group_whatever_the_key() -> None:
    groups = _groups({"heads.a": dict(lr_mult=1.0), "norm": dict(decay_mult=1)}, _Toy())
    assert set(groups) == {(0.1, 0.02)}


def test_options_of_the_wrapper_stay() -> None:
    cfg = dict(type="OptimWrapper", accumulative_counts=3, **_CFG)
    wrapper = TrainableOnlyConstructor(cfg)(_Toy())
    assert wrapper._accumulative_counts == 3
    assert cfg["optimizer"] == _CFG["optimizer"]  # the config is unchanged


def test_steps_only_change_trainable_parameters() -> None:
    model = _Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    wrapper = TrainableOnlyConstructor(_CFG)(model)
    wrapper.update_params(sum((p**2).sum() for p in model.parameters() if p.requires_grad) + 0.0)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    # Biases of layer norms start at 0, where a square has no gradient.
    assert changed == _trainable(model) - {"backbone.adapter_norm.bias"}


def test_options_that_are_not_given_are_the_optimizers_defaults() -> None:
    cfg = dict(optimizer=dict(type="AdamW"))
    (group,) = TrainableOnlyConstructor(cfg)(_Toy()).optimizer.param_groups
    (default,) = torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["weight_decay"]) == (default["lr"], default["weight_decay"])


@pytest.mark.parametrize(
    "paramwise_cfg",
    [
        dict(norm_decay_mult=0.0),
        dict(custom_keys=dict(norm=dict(lr_multiplier=2.0))),
    ],
)
def test_unknown_option(paramwise_cfg: dict) -> None:
    with pytest.raises(InputError, match="norm_decay_mult|lr_multiplier"):
        TrainableOnlyConstructor(_CFG, paramwise_cfg)


def test_a_model_without_trainable_parameters() -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        TrainableOnlyConstructor(_CFG)(_Toy().requires_grad_(False))


def test_the_papers_schedule():
    """Adam with lr and weight decay 1e-4, one group, linear decay to 0 per iteration."""
    cfg = Config.fromfile(Path(__file__).parents[2] / "configs/_base_/schedules/adam_60e.py")
    assert cfg.optim_wrapper.pop("constructor") == TrainableOnlyConstructor.__name__
    constructor = TrainableOnlyConstructor(cfg.optim_wrapper)
    wrapper = constructor(nn.Linear(2, 2))
    (group,) = wrapper.optimizer.param_groups
    assert type(wrapper.optimizer) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-4)
    (schedule,) = cfg.param_scheduler
    assert schedule.pop("convert_to_iter_based")
    epoch_length = 2
    scheduler = PARAM_SCHEDULERS.get(schedule.pop("type")).build_iter_from_epoch(
        wrapper.optimizer, end=cfg.train_cfg.max_epochs, epoch_length=epoch_length, **schedule
    )
    rates = []
    for _ in range(60 * epoch_length):
        rates.append(group["lr"])
        wrapper.optimizer.step()
        scheduler.step()
    steps = len(rates) - 1
    assert rates == pytest.approx([1e-4 * (1 - i / steps) for i in range(steps + 1)], abs=1e-12)


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        (dict(type="Adam"), True),
        (dict(type="SGD", lr=0.1), True),
        (dict(type="Adam", foreach=True), False),
        (dict(type="Adam", fused=False), False),
        (dict(type="RMSprop"), False),
    ],
)
def test_updates_are_fused_unless_the_config_says_how(options: dict, fused: bool) -> None:
    fused = fused and FUSES_ON_CPU
    results = []
    for extra in ({}, {} if "fused" in options or not fused else {"fused": False}):
        torch.manual_seed(0)
        model = _Toy()
        cfg = dict(optimizer={**options, **extra})
        optimizer = TrainableOnlyConstructor(cfg)(model).optimizer
        results.append(bool(optimizer.param_groups[0].get("fused")))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    assert results[0] is fused
    torch.testing.assert_close(results[1], results[3])  # the same update either way


def test_training_in_bfloat16_keeps_parameters_and_updates_in_float32() -> None:
    model = _Toy()
    wrapper = TrainableOnlyConstructor(dict(type="BFloat16OptimWrapper", **_CFG))(model)
    with wrapper.optim_context(model):
        output = model.backbone.adapter(model.backbone.frozen(torch.ones(2, 4)))
    assert output.dtype == torch.bfloat16
    assert autocast_dtype("cpu") is None
    before = model.backbone.adapter.weight.clone()
    wrapper.update_params(output.float().sum())
    assert model.backbone.adapter.weight.dtype == torch.float32
    assert not torch.equal(model.backbone.adapter.weight, before)


def test_parameterwise_options_are_a_dictionary() -> None:
    with pytest.raises(InputError, match="`paramwise_cfg` must be dict.* got 'custom_keys'"):
        TrainableOnlyConstructor(_CFG, "custom_keys")


def test_custom_keys_that_change_nothing() -> None:
    with pytest.raises(InputError, match="no parameter name contains 'decode_head'"):
        _groups({"decode_head": dict(lr_mult=3.0)}, _Toy())
