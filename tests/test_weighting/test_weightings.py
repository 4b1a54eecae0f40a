"""Every weighting against a transliteration of its formula, with absent tasks, and resumed.

No other test calls weightings; test_weighting_training.py has those of a training run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS
from vmt_mm.weighting import FixedWeighting, Weighting, build_weighting

TASKS = ["semseg", "normals", "depth"]
#: Losses of 4 epochs of 3 batches, (12, T), positive.
LOSSES = torch.rand(12, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.1
EVERYWHERE = torch.ones(12, 3, dtype=torch.bool)
Steps = Iterator[tuple[float, list[float]]]


def run(weighting: Weighting, losses: Tensor, present: Tensor) -> Steps:
    """Yield objective and weights per batch."""
    for step, (row, known) in enumerate(zip(losses, present, strict=True)):
        weighting.epoch = step // 3
        objective, weights = weighting(row * known, known)
        yield objective.item(), weights.tolist()


def fixed(losses: Tensor) -> Steps:
    for row in losses.tolist():
        yield sum(row), [1.0] * 3


def uncertainty(losses: Tensor) -> Steps:
    s = torch.full((3,), -0.5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=0.02)
    for row in losses:
        objective = (row / (2 * s.exp()) + s / 2).sum()
        yield objective.item(), (1 / (2 * s.exp())).tolist()
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()


def dynamic(losses: Tensor) -> Steps:
    means = losses.reshape(-1, 3, 3).mean(1).tolist()
    for step, row in enumerate(losses.tolist()):
        epoch, weights = step // 3, [1.0] * 3
        if epoch >= 2:
            ratios = [a / b for a, b in zip(means[epoch - 1], means[epoch - 2], strict=True)]
            powers = [math.exp(ratio / 2.0) for ratio in ratios]
            weights = [3 * power / sum(powers) for power in powers]
        yield sum(w * x for w, x in zip(weights, row, strict=True)), weights


def geometric(losses: Tensor) -> Steps:
    for row in losses.tolist():
        mean = math.prod(row) ** (1 / 3)
        yield mean, [mean / (3 * x) for x in row]


def log_sum(losses: Tensor) -> Steps:
    for row in losses.tolist():
        yield sum(map(math.log, row)), [1 / x for x in row]


def tchebycheff(losses: Tensor) -> Steps:
    nadir = losses[3:6].mean(0).tolist()  # of epoch 1
    for step, row in enumerate(losses.tolist()):
        if step < 6:
            yield sum(map(math.log, row)), [1 / x for x in row]
            continue
        powers = [math.exp(math.log(x / n) / 0.5) for x, n in zip(row, nadir, strict=True)]
        objective = 3 * 0.5 * math.log(sum(powers))
        yield objective, [3 * p / sum(powers) / x for p, x in zip(powers, row, strict=True)]


def famo(losses: Tensor) -> Steps:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.025, weight_decay=1e-3)
    before = None
    for row in losses:
        if before is not None:
            change = before.log() - row.log()
            (w.grad,) = torch.autograd.grad(w.softmax(0), w, change)
            optimizer.step()
        leaf = row.clone().requires_grad_()
        z = w.detach().softmax(0)
        objective = (z * leaf.log()).sum() / (z / row).sum()
        objective.backward()
        assert leaf.grad is not None
        yield objective.item(), leaf.grad.tolist()
        before = row


def random(losses: Tensor) -> Steps:
    for step, row in enumerate(losses.tolist()):
        seed = int(np.random.SeedSequence((3, step)).generate_state(1)[0])
        powers = torch.randn(3, generator=torch.Generator().manual_seed(seed)).exp().tolist()
        weights = [power / sum(powers) for power in powers]
        yield sum(w * x for w, x in zip(weights, row, strict=True)), weights


KINDS: dict[str, tuple[dict, Callable[[Tensor], Steps]]] = dict(
    FixedWeighting=({}, fixed),
    Uncertainty=(dict(lr=0.02), uncertainty),
    DynamicWeightAverage=({}, dynamic),
    GeometricMean=({}, geometric),
    LogSum=({}, log_sum),
    SmoothTchebycheff=(dict(mu=0.5, warmup_epochs=1), tchebycheff),
    FAMO=({}, famo),
    RandomWeighting=(dict(seed=3), random),
)
every_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: str, tasks: list[str] = TASKS) -> Weighting:
    return build_weighting(dict(type=kind, **KINDS[kind][0]), tasks)


@every_kind
def test_the_formula_over_several_steps(kind: str):
    found, expected = run(build(kind), LOSSES, EVERYWHERE), KINDS[kind][1](LOSSES)
    for step, ((value, weights), (own, by_hand)) in enumerate(zip(found, expected, strict=True)):
        # parameters of weightings start as float32
        assert value == pytest.approx(own, rel=1e-6, abs=1e-6), step
        assert weights == pytest.approx(by_hand, rel=1e-6, abs=1e-7), step


@every_kind
def test_weights_are_the_derivatives_of_the_objective(kind: str):
    """Also in the last epoch, when all averages are known; checked by finite differences."""
    step, number, far = 1e-6, len(LOSSES) - 1, torch.eye(3, dtype=torch.float64) * 1e-6

    def last(change: Tensor) -> tuple[float, list[float]]:
        losses = LOSSES.clone()
        losses[number] += change
        return [*run(build(kind), losses, EVERYWHERE)][number]

    if kind == "FAMO":  # its z depends on the batch, but is a constant of the objective
        pytest.skip("the transliteration above holds FAMO's weights")
    slopes = [(last(row)[0] - last(-row)[0]) / (2 * step) for row in far]
    assert last(far[0] * 0)[1] == pytest.approx(slopes, rel=1e-4)


@every_kind
def test_an_absent_task_is_left_out(kind: str):
    """The others get the weights that they have without it, up to a common factor."""
    present = EVERYWHERE.clone()
    present[:, TASKS.index("normals")] = False
    order = sorted(TASKS)
    present = present[:, [TASKS.index(name) for name in order]]
    absent, others = order.index("normals"), [i for i, n in enumerate(order) if n != "normals"]
    found = run(build(kind), LOSSES, present)
    alone = run(build(kind, ["semseg", "depth"]), LOSSES[:, others], EVERYWHERE[:, :2])
    for (_, weights), (_, expected) in zip(found, alone, strict=True):
        assert weights[absent] == 0 or kind in ("FixedWeighting", "DynamicWeightAverage")
        if kind != "RandomWeighting":  # draws other numbers for other tasks
            ratio = weights[others[0]] / weights[others[1]]
            assert ratio == pytest.approx(expected[0] / expected[1], rel=1e-6)


@every_kind
def test_a_task_that_comes_and_goes_and_a_batch_without_labels(kind: str):
    present = torch.tensor([[True, False, True], [False] * 3, [True] * 3] * 4)
    for objective, weights in run(build(kind), LOSSES.float(), present):
        assert np.isfinite([objective, *weights]).all()


@pytest.mark.parametrize("kind", ["GeometricMean", "LogSum", "SmoothTchebycheff", "FAMO"])
def test_a_loss_of_zero_or_less_stops_no_other_task(kind: str):
    known = torch.tensor([True, True, True])
    for value in (0.0, -1.0):
        losses = LOSSES.float().clone()
        losses[:, 1] = value
        absent = torch.tensor([[True, False, True]] * 12)
        without = [*run(build(kind), losses.clamp(min=0), absent)]
        weighting = build(kind)
        for step, (objective, weights) in enumerate(without):
            weighting.epoch = step // 3
            found = weighting(losses[step], known)
            assert (found[0].item(), found[1].tolist()) == (objective, weights)


@every_kind
def test_losses_of_zero_give_finite_weights(kind: str):
    for objective, weights in run(build(kind), torch.zeros(12, 3), EVERYWHERE):
        assert np.isfinite([objective, *weights]).all()


@every_kind
@pytest.mark.parametrize("stop", [2, 7])
def test_a_restored_state_continues_exactly(kind: str, stop: int, tmp_path):
    """The state goes through a file that may contain plain values and tensors only."""
    straight = [*run(build(kind), LOSSES.float(), EVERYWHERE)]
    first = build(kind)
    for step in range(stop):
        first.epoch = step // 3
        first(LOSSES[step].float(), EVERYWHERE[step])
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build(kind)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in range(stop, 12):
        second.epoch = step // 3
        objective, weights = second(LOSSES[step].float(), EVERYWHERE[step])
        assert (objective.item(), weights.tolist()) == straight[step]


@every_kind
def test_batches_of_one_update_share_parameters(kind: str):
    """Within an update, weights may depend on the losses of the batch only."""
    weighting = build(kind)
    for step in range(6):
        weighting(LOSSES[step], EVERYWHERE[step])
    weighting.new_update = False
    twice = [weighting(LOSSES[6], EVERYWHERE[6])[1].tolist() for _ in range(2)]
    assert twice[0] == twice[1]


@every_kind
def test_weights_do_not_depend_on_the_order_of_tasks(kind: str):
    assert build(kind).tasks == build(kind, TASKS[::-1]).tasks == ("depth", "normals", "semseg")


def test_every_weighting_is_tested():
    own = {name for name, kind in WEIGHTINGS.module_dict.items() if "vmt_mm" in kind.__module__}
    assert own == {*KINDS, "GradientAggregation"}  # test_gradient_methods.py
    assert isinstance(build_weighting(None, TASKS), FixedWeighting)


@pytest.mark.parametrize(
    ("cfg", "rule"),
    [
        (dict(type="Uncertain"), "must be a dict with a `type` among DynamicWeightAverage, FAMO"),
        ("FAMO", "must be a dict with a `type`"),
        (dict(type="FAMO", lr=0), "`lr` must be a positive number, got 0"),
        (dict(type="FAMO", lr=float("inf")), "`lr` must be a positive number, got inf"),
        (dict(type="FAMO", weight_decay=-1), "`weight_decay` must be a number >= 0, got -1"),
        (dict(type="SmoothTchebycheff", warmup_epochs=-1), "`warmup_epochs` must be an integer"),
        (dict(type="DynamicWeightAverage", temperature="2"), "`temperature` must be a positive"),
        (dict(type="Uncertainty", initial="x"), "model.weighting: unsupported operand"),
        (dict(type="GradientAggregation"), "model.weighting: .*missing .*'aggregator'"),
        (dict(type="RandomWeighting", seed=-1), "`seed` must be an integer >= 0, got -1"),
    ],
)
def test_wrong_configs_are_refused(cfg: object, rule: str):
    with pytest.raises(InputError, match=rule.replace("(", r"\(")):
        build_weighting(cfg, TASKS)


def test_a_state_of_another_weighting_is_refused():
    with pytest.raises(ValueError, match="type of model.weighting: 'FAMO' there, 'LogSum' in"):
        build("LogSum").load_state_dict(build("FAMO").state_dict())
    other = build_weighting(dict(type="FAMO", lr=0.1), TASKS)
    with pytest.raises(ValueError, match="lr of model.weighting: None there, 0.1 in the config"):
        other.load_state_dict(build("FAMO").state_dict())
