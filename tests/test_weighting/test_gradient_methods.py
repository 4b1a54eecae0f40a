"""Gradient methods: the update equals the one by hand from each task's own backward pass.

test_weightings.py has the weightings of losses; these need a model. The references below solve
each method's problem in another way than TorchJD, in float64.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from methods import build_model, scatter
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from processes import fork_group, run_forked
from small_runs import later
from torch import Tensor, nn

from vmt_mm.config import load_config
from vmt_mm.engine.loops import seed_iteration
from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.feature_maps import tensors_of
from vmt_mm.weighting import build_weighting

pytest.importorskip("torchjd")

TASKS = dict(
    normals=dict(type="Normals", loss_weight=10.0),
    saliency=dict(type="Saliency", loss_weight=5.0),
    semseg=dict(type="Segmentation", num_classes=5),
)
VMT = dict(type="VMTAdapter", ratio=4)
LORA = dict(type="LoRA", rank=2)
SIDE = dict(type="SideVMT")  # has shared parameters without dimensions
PER_TASK = dict(type="PerTask", method=dict(type="Adapter"))
Gradients = dict[str, np.ndarray]


def make(peft: Mapping = VMT, with_cp: bool = False, **weighting: Any) -> Any:
    """A model in float64 with a gradient method, or the sum of the losses without arguments."""
    torch.manual_seed(3)
    model: Any = scatter(build_model(peft, TASKS, with_cp=with_cp)).train().double()
    if weighting:
        cfg = dict(type="GradientAggregation", **weighting)
        model.weighting = build_weighting(cfg, list(TASKS))
        model.weighting.prepare(model.backbone)
    return model


def batch(seed: int = 0, without: Sequence[str] = ()) -> tuple[Tensor, list[MultiTaskDataSample]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 32, 32, generator=generator).double()
    samples = [MultiTaskDataSample() for _ in images]
    for sample in samples:
        for name, label in dict(
            semseg=torch.randint(0, 5, (1, 32, 32), generator=generator).byte(),
            saliency=torch.randint(0, 2, (1, 32, 32), generator=generator).byte(),
            normals=torch.randn(3, 32, 32, generator=generator),
        ).items():
            if name not in without:
                sample.set_label(name, label)
    return images, samples


def total_of(model: nn.Module, data: tuple, rank: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective and the values for the log."""
    seed_iteration(0, rank, 0)  # the same dropout of the heads each time
    losses = model(*data, mode="loss")
    return getattr(model, "module", model).parse_losses(losses)


def gradients_of(model: nn.Module) -> Gradients:
    return {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}


def by_hand(model: Any, data: tuple, rank: int = 0, half: bool = False) -> dict[str, Gradients]:
    """Task -> its gradients, each from its own forward and backward pass."""
    found, model.backbone.batch_tasks = {}, False
    for task in TASKS:
        model.zero_grad()
        seed_iteration(0, rank, 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses, _ = model.task_losses(*data)
        losses[task].backward()
        found[task] = gradients_of(model)
    model.zero_grad()
    return found


def shared_names(own: Mapping[str, Gradients]) -> list[str]:
    first, *others = own.values()
    return [name for name in first if all(name in g for g in others)]


def flat(own: Mapping[str, Gradients], tasks: Sequence[str] = tuple(TASKS)) -> np.ndarray:
    """The rows of the tasks' gradients by what all tasks share."""
    names = shared_names(own)
    return np.stack([np.concatenate([own[task][n].ravel() for n in names]) for task in tasks])


def expect(own: Mapping[str, Gradients], direction: np.ndarray) -> Gradients:
    """Shared parameters get the direction; the others the sum of the tasks' gradients."""
    start, every = 0, {n for g in own.values() for n in g}
    expected = {n: np.sum([g[n] for g in own.values() if n in g], axis=0) for n in every}
    for name in shared_names(own):
        size, shape = expected[name].size, expected[name].shape
        expected[name] = direction[start : start + size].reshape(shape)
        start += size
    assert start == len(direction)
    return expected


def assert_equal(found: Gradients, expected: Gradients, tolerance: float = 1e-8) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = tolerance * max(1, np.abs(value).max())
        np.testing.assert_allclose(found[name], value, rtol=0, atol=scale, err_msg=name)


def upgrad(rows: np.ndarray) -> np.ndarray:
    """Mean of the projections of the rows on the cone of vectors without conflict.

    Finds each by trying all sets of active constraints.
    """
    count, total = len(rows), np.zeros(rows.shape[1])
    for row in rows:
        candidates = []
        for active in product((False, True), repeat=count):
            chosen = rows[list(active)]
            # add vectors of the chosen rows, of coefficients >= 0
            step = np.linalg.lstsq(chosen @ chosen.T, -chosen @ row, rcond=None)[0]
            point = row + step @ chosen
            if (step >= -1e-12).all() and (rows @ point >= -1e-10 * np.abs(rows @ row).max()).all():
                candidates.append(point)
        total += min(candidates, key=lambda point: np.linalg.norm(point - row))
    return total / count


def mgda(rows: np.ndarray) -> np.ndarray:
    """The shortest vector between two gradients."""
    a, b = rows
    share = np.clip((b - a) @ b / ((a - b) @ (a - b)), 0, 1)
    return share * a + (1 - share) * b


def pcgrad(rows: np.ndarray, orders: Sequence[Sequence[int]] = ((2, 0, 1),) * 3) -> np.ndarray:
    total = np.zeros(rows.shape[1])
    for i, order in enumerate(orders):
        row = rows[i].copy()
        for j in order:
            if j != i and row @ rows[j] < 0:
                row -= row @ rows[j] / (rows[j] @ rows[j]) * rows[j]
        total += row
    return total


def aligned(rows: np.ndarray) -> np.ndarray:
    """All singular values become the smallest one."""
    u, values, v = np.linalg.svd(rows, full_matrices=False)
    return (values.min() * u @ v).mean(0)


def imtl_g(rows: np.ndarray) -> np.ndarray:
    """Weights with sum 1 whose sum has equal projections on all unit gradients."""
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    system = np.vstack([np.ones(len(rows)), (units[1:] - units[0]) @ rows.T])
    return np.linalg.solve(system, [1, *[0] * (len(rows) - 1)]) @ rows


def config(rows: np.ndarray) -> np.ndarray:
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    direction = np.linalg.lstsq(units, np.ones(len(rows)), rcond=None)[0]
    direction /= np.linalg.norm(direction)
    return (rows @ direction).sum() * direction


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = dict(
    UPGrad=upgrad, PCGrad=pcgrad, AlignedMTL=aligned, IMTLG=imtl_g, ConFIG=config
)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("name", METHODS)
def test_the_update_is_the_one_by_hand(name: str, eager: bool):
    own = by_hand(make(), batch())
    apart = [n for n in shared_names(own) if "alpha" in n or "gamma" in n or n.startswith("heads.")]
    assert not apart
    rows, model = flat(own), make(aggregator=name)
    model.eager_backward = eager
    with mock.patch("torch.randperm", lambda n: torch.tensor([2, 0, 1])):
        total, log = total_of(model, batch())
    total.backward()
    direction = METHODS[name](rows)
    assert_equal(gradients_of(model), expect(own, direction))
    assert np.abs(direction - rows.sum(0)).max() > 1e-3  # not the plain sum
    losses = [value.item() for key, value in log.items() if key.startswith("loss_")]
    assert total.item() == pytest.approx(sum(losses), rel=1e-6)
    if name != "ConFIG":
        weights = np.array([log[f"weight_{task}"].item() for task in TASKS])
        np.testing.assert_allclose(weights @ rows, direction, atol=1e-8)


def test_the_gradients_of_these_tests_conflict():
    rows = flat(by_hand(make(), batch()))
    assert (rows @ rows.T).min() < 0
    assert (rows @ upgrad(rows)).min() > -1e-10


@pytest.mark.parametrize(
    "peft", [LORA, SIDE, dict(type="Hyperformer", ratio=4)], ids=lambda x: x["type"]
)
@pytest.mark.parametrize("with_cp", [False, True])
def test_other_methods_and_activation_checkpointing(peft: Mapping, with_cp: bool):
    own = by_hand(make(peft), batch())
    model = make(peft, with_cp, aggregator="UPGrad")
    total_of(model, batch())[0].backward()
    assert_equal(gradients_of(model), expect(own, upgrad(flat(own))))


def test_an_absent_task_is_left_out():
    """MGDA would choose the zero gradient of an absent task; of two, its solution is a formula."""
    data = batch(without=["saliency"])
    own = by_hand(make(), data)
    assert not any(gradient.any() for gradient in own["saliency"].values())
    model = make(aggregator="MGDA")
    total, log = total_of(model, data)
    total.backward()
    assert_equal(gradients_of(model), expect(own, mgda(flat(own, ["normals", "semseg"]))))
    assert "weight_saliency" not in log
    assert 0 < log["weight_normals"] < 1


@pytest.mark.parametrize("without", [["saliency", "normals"], [*TASKS]])
def test_one_task_or_none_is_the_plain_sum(without: list[str]):
    data = batch(without=without)
    own = by_hand(make(), data)
    model = make(aggregator="MGDA")
    total, log = total_of(model, data)
    total.backward()
    assert_equal(gradients_of(model), expect(own, flat(own).sum(0)))
    assert not [key for key in log if key.startswith("weight_")]


def features_by_hand(model: Any, data: tuple, rank: int = 0) -> np.ndarray:
    """Gradients (T, P) of each task's loss by the features of one process."""
    rows, run = [], model.backbone.forward

    def keep(*args: Any, **kwargs: Any) -> Any:
        features = run(*args, **kwargs)
        kept.extend(tensors_of(x)[0] for x in features["semseg"])
        return dict.fromkeys(features, features["semseg"])  # tasks have copies otherwise

    with mock.patch.object(model.backbone, "forward", keep):
        for task in TASKS:
            kept: list[Tensor] = []
            seed_iteration(0, rank, 0)
            losses, _ = model.task_losses(*data)
            found = torch.autograd.grad(losses[task], kept)
            rows.append(torch.cat([x.flatten() for x in found]).numpy())
    return np.stack(rows)


def weights_of(name: str, rows: np.ndarray) -> np.ndarray:
    """The weights of the rows in their aggregate."""
    return np.linalg.lstsq(rows.T, METHODS[name](rows), rcond=None)[0]


@pytest.mark.parametrize("name", ["UPGrad", "IMTLG"])
def test_on_features_weights_the_tasks_by_their_gradients_of_features(name: str):
    own = by_hand(make(LORA), batch())
    weights = weights_of(name, features_by_hand(make(LORA), batch()))
    model = make(LORA, aggregator=name, on="features")
    calls = mock.Mock(side_effect=model.backbone.forward)
    with mock.patch.object(model.backbone, "forward", calls):
        total, log = total_of(model, batch())
    assert calls.call_count == 1
    assert [log[f"weight_{task}"].item() for task in TASKS] == pytest.approx(weights, abs=1e-8)
    total.backward()
    assert_equal(gradients_of(model), expect(own, weights @ flat(own)))


@pytest.mark.parametrize("on", ["parameters", "features"])
def test_one_backward_pass_per_task_and_no_more(on: str):
    """Counted at the output of a layer of the first block that all gradients pass."""
    model, passes = make(LORA, aggregator="UPGrad", on=on), []

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        output.register_hook(lambda gradient: passes.append(1))

    block = model.backbone.get_submodule(model.backbone.block_specs[0].name)
    block.norm2.register_forward_hook(count)
    total_of(model, batch())[0].backward()
    assert len(passes) == (len(TASKS) if on == "parameters" else 1)


def test_accumulated_batches_have_an_aggregate_each():
    of_batches = [by_hand(make(), batch(seed)) for seed in (0, 1)]
    expected = [expect(own, upgrad(flat(own))) for own in of_batches]
    model = make(aggregator="UPGrad")
    for seed in (0, 1):
        (total_of(model, batch(seed))[0] / 2).backward()
    mean = {name: (expected[0][name] + expected[1][name]) / 2 for name in expected[0]}
    assert_equal(gradients_of(model), mean)


def in_float32() -> tuple[Tensor, list[MultiTaskDataSample]]:
    images, samples = batch()
    return images.float(), samples


def test_in_bfloat16_gradients_are_aggregated_in_float32():
    own = by_hand(make().float(), in_float32(), half=True)
    model = make(aggregator="AlignedMTL").float()
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = total_of(model, in_float32())
    total.backward()
    expected = expect(own, aligned(flat(own).astype(float)))
    assert_equal(gradients_of(model), expected, 1e-6)


def test_random_orders_continue_and_leave_the_generators_alone():
    def aggregate(model: Any, seed: int) -> list[float]:
        torch.manual_seed(seed)  # of the process and the iteration: another one in each process
        before = torch.get_rng_state()
        model.weighting.objective(torch.ones(3), torch.ones(3))
        vector, _ = model.weighting._aggregate(torch.arange(6.0).reshape(3, 2))
        assert torch.equal(torch.get_rng_state(), before)
        return vector.tolist()

    first = make(aggregator="Random")
    straight = [aggregate(first, seed) for seed in (5, 6, 7)]
    assert len({tuple(vector) for vector in straight}) == 3
    second = make(aggregator="Random")
    aggregate(second, 9)
    third = make(aggregator="Random")
    third.weighting.load_state_dict(second.weighting.state_dict())
    assert [aggregate(third, seed) for seed in (8, 9)] == straight[1:]


def test_a_gradient_that_is_not_finite_leaves_the_decision_to_the_hook():
    model, data = make(aggregator="UPGrad"), batch()
    data[0][0, 0, 0, 0] = math.nan
    total, _ = total_of(model, data)
    assert total.isnan()
    total.backward()
    assert any(np.isnan(g).any() for g in gradients_of(model).values())


def test_without_training_losses_are_the_plain_ones():
    model = make(aggregator="UPGrad").eval()
    with torch.no_grad():
        assert set(model(*batch(), mode="loss")) == {f"loss_{task}" for task in TASKS}


@pytest.mark.parametrize(
    ("peft", "cfg", "rule"),
    [
        (VMT, dict(aggregator="UpGrad"), "`aggregator` must be one of AlignedMTL, CAGrad, "),
        (VMT, dict(aggregator="WeightedAggregator"), "got 'WeightedAggregator'"),
        (VMT, dict(aggregator="UPGrad", on="heads"), "`on` must be 'parameters' or 'features'"),
        (VMT, dict(aggregator="UPGrad", c=1), "UPGrad: .*unexpected keyword argument 'c'"),
        (VMT, dict(aggregator="MGDA", epsilon=0), "MGDA: epsilon must be positive, but got 0"),
        (VMT, dict(aggregator="AlignedMTL", scale_mode="mode"), "Invalid scale_mode='mode'"),
        (VMT, dict(aggregator="UPGrad", pref_vector=[1, 2]), "'pref_vector'. must be numbers or"),
        (LORA, dict(aggregator="ConFIG", on="features"), "ConFIG does not only use products"),
        (VMT, dict(aggregator="UPGrad", on="features"), "VMTAdapter has no features that all"),
        (PER_TASK, dict(aggregator="UPGrad", on="features"), "PerTask has no features that all"),
        (dict(type="DecodersOnly"), dict(aggregator="UPGrad"), "DecodersOnly has none"),
    ],
)
def test_what_cannot_work_is_refused(peft: Mapping, cfg: Mapping, rule: str):
    with pytest.raises(InputError, match=rule):
        make(peft, **cfg)


def test_what_the_first_batch_shows_is_refused():
    with pytest.raises(InputError, match="the tasks share no trainable parameter"):
        total_of(make(PER_TASK, aggregator="UPGrad"), batch())
    with pytest.raises(InputError, match="GradVac remembers all tasks, but a batch has labels of"):
        total_of(make(aggregator="GradVac"), batch(without=["normals"]))
    (model := make(aggregator="UPGrad")).backbone.compile_features(backend="eager")
    with pytest.raises(InputError, match="share a parameter of a compiled backbone"):
        total_of(model, batch())
    with (
        torch.autocast("cpu", torch.float16),
        pytest.raises(InputError, match="need bfloat16 .* got float16"),
    ):
        total_of(make(aggregator="UPGrad").float(), in_float32())


def test_a_missing_library_is_one_message():
    with (
        mock.patch.dict(sys.modules, {"torchjd.aggregation": None}),
        pytest.raises(InputError, match="install it with `pip install torchjd`"),
    ):
        make(aggregator="UPGrad")
    with (
        mock.patch("torchjd._mixins.find_spec", lambda name: None),
        pytest.raises(InputError, match="CAGrad: .*pip install"),
    ):
        make(aggregator="CAGrad", c=0.4)


def test_a_config_takes_options_of_the_aggregator_but_no_tasks():
    file = Path(__file__).parents[2] / "configs/vmt/vmt_swin-nano_shapes.py"
    weighting = dict(type="GradientAggregation", aggregator="MGDA", epsilon=0.01, max_iters=9)
    built = MODELS.build(load_config(file, {"model.weighting": weighting}).model).weighting
    assert (built.aggregator.epsilon, built.aggregator.max_iters) == (0.01, 9)
    with pytest.raises(InputError, match="'tasks'; weightings get all trained tasks"):
        load_config(file, {"model.weighting": dict(weighting, tasks=["semseg"])})


def test_a_resumed_training_is_the_same(small_run, tmp_path: Path):
    """Interrupted within an update of two batches; random orders continue."""
    options = {
        "model.weighting": dict(type="GradientAggregation", aggregator="Random"),
        "optim_wrapper.accumulative_counts": 2,
        "default_hooks.checkpoint.by_epoch": False,
        "default_hooks.checkpoint.interval": 3,
        "train_cfg.max_epochs": 2,
        "train_cfg.val_interval": 2,
    }
    run = small_run(options, folder=tmp_path / "first").train()
    resumed = small_run({**options, "load_from": str(run.folder / "iter_3.pth"), "resume": True})
    resumed.train()
    assert resumed.losses == later(run.losses, 3)
    assert resumed.validations == run.validations
    with pytest.raises(InputError, match="GradientAggregation does not work in a compiled model"):
        small_run({**options, "compile": True}, folder=tmp_path / "compiled").train()


#: What two processes train: method, aggregator, what J has, and whether one lacks normals.
CASES = [
    (VMT, "UPGrad", "parameters", False),
    (VMT, "AlignedMTL", "parameters", True),
    (LORA, "UPGrad", "features", False),
    (VMT, "PCGrad", "parameters", False),
]


def half(rank: int, partly: bool) -> tuple[Tensor, list[MultiTaskDataSample]]:
    return batch(rank, ["normals"] if partly and rank == 0 else [])


def work(rank: int, folder: Path) -> None:
    init_default_scope("vmt_mm")
    for number, (peft, name, on, partly) in enumerate(CASES):
        model = make(peft, aggregator=name, on=on)
        # the wrapper of the tools, with find_unused_parameters=False
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
        total_of(wrapped, half(rank, partly), rank)[0].backward()
        found = {key: torch.from_numpy(value) for key, value in gradients_of(model).items()}
        torch.save(found, folder / f"{number}_{rank}.pt")
        dist.barrier()


@pytest.mark.processes
def test_two_processes_aggregate_the_mean_gradients(tmp_path: Path):
    run_forked(__file__, tmp_path)
    for number, (peft, name, on, partly) in enumerate(CASES):
        files = [tmp_path / f"{number}_{rank}.pt" for rank in (0, 1)]
        loaded = [torch.load(file, weights_only=True) for file in files]
        found = [{key: value.numpy() for key, value in own.items()} for own in loaded]
        assert_equal(found[0], found[1], 0)
        halves, features = [], []
        for rank in (0, 1):
            model = make(peft)
            if partly:  # the loss is a mean over the labels of both processes
                model.update_shares = dict.fromkeys(TASKS, 1.0) | dict(normals=2.0 * rank)
            halves.append(by_hand(model, half(rank, partly), rank))
            if on == "features":
                features.append(features_by_hand(model, half(rank, partly), rank))
        first, second = halves
        own = {t: {n: (g + second[t][n]) / 2 for n, g in first[t].items()} for t in TASKS}
        rows = flat(own)
        if name == "PCGrad":
            torch.manual_seed(1)  # the first batch
            direction = pcgrad(rows, [torch.randperm(3).tolist() for _ in TASKS])
        elif on == "features":
            direction = weights_of(name, np.concatenate(features, axis=1) / 2) @ rows
        else:
            direction = METHODS[name](rows)
        assert_equal(found[0], expect(own, direction))


if __name__ == "__main__":
    fork_group(2, Path(sys.argv[1]), partial(work, folder=Path(sys.argv[1])))
