"""States of optimizers and schedules are matched by parameter name."""

import copy

import pytest
import torch
from torch import nn

from vmt_mm.checkpoints.training_state import (
    by_position,
    match_schedules,
    named_state,
    save_schedules,
)
from vmt_mm.engine.optimizers import TrainableOnlyConstructor
from vmt_mm.registry import PARAM_SCHEDULERS

ADAM = dict(type="AdamW", lr=0.1, weight_decay=0.02)
SGD = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.02)
GROUPS = {"heads.b": dict(lr_mult=3.0), "bias": dict(decay_mult=0.0)}
POLY = dict(type="PolyLR", end=10, by_epoch=False)
RESTARTS = dict(type="CosineRestartLR", periods=[10], eta_min=0.0, by_epoch=False)
WARM = dict(type="LinearLR", start_factor=0.5, end=3, by_epoch=False)


class Toy(nn.Module):
    def __init__(self, order="abc", size=3):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(2, size) for name in order})
        self.unused = nn.Parameter(torch.zeros(2))  # never gets a gradient


def build(order="abc", optimizer=ADAM, groups=(), schedules=(POLY,), size=3, **options):
    """Model, wrapper and schedules after two steps with gradients that depend on names only."""
    model = Toy(order, size)
    construct = TrainableOnlyConstructor(
        dict(optimizer=dict(optimizer), **options), dict(custom_keys=dict(groups))
    )
    wrapper = construct(model)
    schedules = [
        PARAM_SCHEDULERS.build(dict(s), default_args=dict(optimizer=wrapper)) for s in schedules
    ]
    return model, wrapper, schedules


def step(model, wrapper, schedules, count=2):
    for number in range(count):
        for name, parameter in sorted(model.named_parameters()):
            seed = sum(name.encode()) + number
            draw = torch.Generator().manual_seed(seed)
            if name != "unused":
                parameter.grad = torch.randn(parameter.shape, generator=draw)
        wrapper.step()
        for schedule in schedules:
            schedule.step()


def saved(model, wrapper, schedules):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = copy.deepcopy(named_state(wrapper, model))
    return weights, state, copy.deepcopy(save_schedules(schedules))


def resume(checkpoint, model, wrapper, schedules, lengths=()):
    weights, state, of_schedules = copy.deepcopy(checkpoint)
    model.load_state_dict(weights)
    state, order = by_position(state, named_state(wrapper, model))
    wrapper.load_state_dict(state)
    matched = match_schedules(of_schedules, schedules, order, lengths)
    for schedule, found in zip(schedules, matched, strict=True):
        schedule.load_state_dict(found)


OPTIMIZERS = {
    "Adam": dict(optimizer=ADAM),
    "SGD": dict(optimizer=SGD),
    "groups": dict(optimizer=ADAM, groups=GROUPS),
    "accumulated": dict(optimizer=SGD, groups=GROUPS, clip_grad=dict(max_norm=1.0)),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
@pytest.mark.parametrize("order", ["abc", "cab", "bca"])
def test_any_order_resumes_alike(case, order):
    first = build(**OPTIMIZERS[case], schedules=(WARM, POLY))
    step(*first)
    checkpoint = saved(*first)
    step(*first)
    again = build(order, **OPTIMIZERS[case], schedules=(WARM, POLY))
    resume(checkpoint, *again)
    step(*again)
    expected = dict(first[0].named_parameters())
    for name, parameter in again[0].named_parameters():
        assert torch.equal(parameter, expected[name]), name
    rates = [
        {
            name: group["lr"]
            for group in named_state(w, m)["param_groups"]
            for name in group["params"]
        }
        for m, w, _ in (first, again)
    ]
    assert rates[0] == rates[1]
    assert first[2][0].last_step == again[2][0].last_step


def test_the_logged_base_rate_is_resumed():
    first = build(groups=GROUPS, schedules=(RESTARTS,))
    step(*first)
    checkpoint = saved(*first)
    step(*first)
    again = build("cab", groups=GROUPS, schedules=(RESTARTS,))
    resume(checkpoint, *again)
    step(*again)
    assert again[1].get_lr() == first[1].get_lr()


def test_names_in_the_file():
    model, wrapper, schedules = build("cab")
    step(model, wrapper, schedules)
    _, state, of_schedules = saved(model, wrapper, schedules)
    trained = {name for name, _ in model.named_parameters()} - {"unused"}
    assert set(state["state"]) == trained
    assert set(state["param_groups"][0]["params"]) == trained | {"unused"}
    assert state["kind"] == "AdamW" and of_schedules[0]["kind"] == "PolyLR"


def test_options_of_the_implementation_are_those_of_the_new_run():
    first = build(optimizer=dict(ADAM, fused=True))
    step(*first)
    again = build("cba", optimizer=dict(ADAM, foreach=True, fused=False))
    resume(saved(*first), *again)
    (group,) = again[1].optimizer.param_groups
    assert group["foreach"] and not group["fused"]


OTHERS = {
    "optimizer": (dict(optimizer=SGD), "the optimizer: 'AdamW' in the checkpoint, 'SGD' in"),
    "wrapper": (dict(accumulative_counts=2), "optim_wrapper.accumulative_counts: 1 in .*, 2 in"),
    "clipping": (dict(clip_grad=dict(max_norm=1)), "optim_wrapper.clip_grad: {} in"),
    "lr": (dict(optimizer=dict(ADAM, lr=0.2)), "lr of .*: 0.1 in the checkpoint, 0.2 in the con"),
    "decay": (dict(optimizer=dict(ADAM, weight_decay=0.0)), "weight_decay of .*: 0.02 .*, 0.0 in"),
    "betas": (dict(optimizer=dict(ADAM, betas=(0.8, 0.9))), r"betas of .*: \[0.9, 0.999\] in"),
    "groups": (dict(groups=GROUPS), r"lr of heads.b.*: 0.1 in .*, 0.3\S* in the config"),
    "less": (dict(order="ab"), r"2 parameter\(s\) train only in the checkpoint: heads.c.bias"),
    "more": (dict(order="abcd"), r"2 parameter\(s\) train only in the config: heads.d.bias"),
    "size": (dict(size=4), r"shape of heads.a.bias: \[3\] in the checkpoint, \[4\] in"),
    "power": (dict(schedules=[dict(POLY, power=2.0)]), "schedule PolyLR: power: 1.0 in .*, 2.0 in"),
    "length": (dict(schedules=[dict(POLY, end=20)]), "PolyLR: .*end: 10 in .*, 20 in"),
    "schedule": (dict(schedules=[WARM]), r"schedules: \['PolyLR'\] in .*, \['LinearLR'\] in"),
    "further": (dict(schedules=[POLY, WARM]), r"\['PolyLR'\] in .*, \['PolyLR', 'LinearLR'\] in"),
    "none": (dict(schedules=[]), r"schedules: \['PolyLR'\] in the checkpoint, \[\] in"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_another_training_is_refused(case):
    first = build()
    step(*first)
    options, message = OTHERS[case]
    model, wrapper, schedules = build(**options)
    _, state, of_schedules = saved(*first)
    with pytest.raises(ValueError, match=message):
        _, order = by_position(state, named_state(wrapper, model))
        match_schedules(of_schedules, schedules, order, ())


def test_a_state_without_names_is_refused():
    model, wrapper, _ = build()
    with pytest.raises(ValueError, match="has no parameter names"):
        by_position(wrapper.state_dict(), named_state(wrapper, model))


def test_a_schedule_that_ends_with_the_training_may_become_longer():
    first = build()
    step(*first)
    again = build(schedules=[dict(POLY, end=30)])
    resume(saved(*first), *again, lengths={3, 30})
    assert again[2][0].end == 10


def test_the_scaler_is_resumed():
    model, wrapper, _ = build()
    state = dict(named_state(wrapper, model), loss_scaler=dict(scale=2.0))
    found, _ = by_position(state, named_state(wrapper, model))
    assert found["loss_scaler"] == dict(scale=2.0)
