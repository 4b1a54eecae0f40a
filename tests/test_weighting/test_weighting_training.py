"""Weightings within training: processes, batches of an update, bfloat16, the log, resume.

test_weightings.py has the formulas; here, losses come from a model.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from methods import build_model, scatter
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from processes import fork_group, run_forked
from small_runs import later
from torch import Tensor, nn

from vmt_mm.analysis.gradient_conflict import task_losses
from vmt_mm.engine.loops import EpochBasedTrainLoop
from vmt_mm.errors import InputError
from vmt_mm.registry import WEIGHTINGS
from vmt_mm.structures import MultiTaskDataSample

#: Losses that are means over pixels, so that those of parts of a batch determine its own.
TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=5),
    depth=dict(type="Depth", loss_weight=2.0),
    normals=dict(type="Normals", loss_weight=10.0),
)
OPTIONS = dict(Uncertainty=dict(lr=0.1), SmoothTchebycheff=dict(warmup_epochs=0))
own = (name for name, kind in WEIGHTINGS.module_dict.items() if "vmt_mm" in kind.__module__)
KINDS = sorted({*own} - {"GradientAggregation"})  # test_gradient_methods.py
every_kind = pytest.mark.parametrize("kind", KINDS)
STEPS = 5


def model_of(kind: str) -> nn.Module:
    """A small model in training mode, without dropout and with running statistics."""
    torch.manual_seed(3)
    model = scatter(build_model(dict(type="VMTAdapter"), TASKS))
    weighting = dict(type=kind, **OPTIONS.get(kind, {}))
    model.weighting = WEIGHTINGS.build(weighting, default_args=dict(tasks=list(TASKS)))
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d, nn.BatchNorm2d)):
            module.eval()
    return model


def batch(step: int, parts: tuple[int, ...]) -> dict[str, Any]:
    """Two images per part; part 0 has no normals, and depth only in steps 1 and 3."""
    images, samples = [], []
    for part in parts:
        generator = torch.Generator().manual_seed(10 * step + part)
        images.append(torch.randn(2, 3, 32, 32, generator=generator))
        for _ in range(2):
            sample = MultiTaskDataSample()
            classes = torch.randint(0, 5 + part, (1, 32, 32), generator=generator)
            classes[classes == 5] = 255  # so that parts differ in the number of labelled pixels
            sample.set_label("semseg", classes.byte())
            if part or step in (1, 3):
                sample.set_label("depth", torch.rand(1, 32, 32, generator=generator))
            if part and step < 4:
                sample.set_label("normals", torch.randn(3, 32, 32, generator=generator))
            samples.append(sample)
    return dict(inputs=torch.cat(images), data_samples=samples)


def train(model: nn.Module, parts: tuple[int, ...], base: nn.Module) -> dict[str, Any]:
    """Train some steps; record weights, and the gradients of the last step."""
    trained = [p for p in base.parameters() if p.requires_grad]
    optimizer, weights = torch.optim.SGD(trained, lr=1e-3), []
    for step in range(STEPS):
        base.weighting.epoch = step // 2
        losses = model(**batch(step, parts), mode="loss")
        total, log = base.parse_losses(losses)
        weights.append([log[f"weight_{name}"].item() for name in TASKS if len(log) > 4])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    names = [name for name, p in base.named_parameters() if p.requires_grad]
    gradients = {n: p.grad.clone() for n, p in zip(names, trained, strict=True)}
    return dict(weights=weights, gradients=gradients)


def _work(rank: int, folder: Path) -> None:
    init_default_scope("vmt_mm")
    for kind in KINDS:
        model = model_of(kind)
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
        torch.save(train(wrapped, (rank,), model), folder / f"{kind}_{rank}.pt")
        dist.barrier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of two processes, by kind."""
    folder = tmp_path_factory.mktemp("weightings")
    run_forked(__file__, folder)
    return folder


@pytest.mark.processes
@every_kind
def test_two_processes_are_one_with_both_halves_of_the_batch(kind: str, folder: Path):
    """Also with labels of a task in one process only, or in none."""
    records = [torch.load(folder / f"{kind}_{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert records[0]["weights"] == records[1]["weights"]
    model = model_of(kind)
    alone = train(model, (0, 1), model)
    for step, expected in enumerate(alone["weights"]):
        assert records[0]["weights"][step] == pytest.approx(expected, rel=1e-4), step
    for name, expected in alone["gradients"].items():
        found = [record["gradients"][name] for record in records]
        assert torch.equal(*found)
        scale = expected.abs().max().item()
        torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4 * scale + 1e-8)


@pytest.mark.parametrize("kind", ["DynamicWeightAverage", "FixedWeighting", "Uncertainty"])
def test_two_batches_of_an_update_are_one_large_batch(kind: str):
    """Of weightings whose weights do not depend on the losses of the batch."""
    large, model = model_of(kind), model_of(kind)
    total, _ = large.parse_losses(large(**batch(1, (0, 1)), mode="loss"))
    total.backward()
    loop: Any = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    loop._iter, wrapper = 0, SimpleNamespace(_accumulative_counts=2)
    hub = MessageHub.get_instance(f"update-{kind}")
    loop._runner = SimpleNamespace(model=model, message_hub=hub, optim_wrapper=wrapper)
    for data in loop._with_shares(iter([batch(1, (0,)), batch(1, (1,))])):
        half, _ = model.parse_losses(model(**data, mode="loss"))
        (half / 2).backward()
        model.weighting.new_update = False
        loop._iter += 1
    assert model.update_shares is None  # which later batches would not fit
    for (name, own), other in zip(large.named_parameters(), model.parameters(), strict=True):
        if own.requires_grad:
            torch.testing.assert_close(other.grad, own.grad, rtol=1e-4, atol=1e-6, msg=name)


def objective_and_log(kind: str, precision: torch.dtype) -> tuple[Tensor, Mapping[str, Tensor]]:
    model = model_of(kind)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        losses = model(**batch(1, (0, 1)), mode="loss")
    total, log = model.parse_losses(losses)
    total.backward()
    return total, log


@every_kind
def test_bfloat16(kind: str):
    total, log = objective_and_log(kind, torch.bfloat16)
    exact, own = objective_and_log(kind, torch.float32)
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(exact.item(), rel=0.05, abs=0.1)
    assert {key: value.item() for key, value in log.items()} == {
        key: pytest.approx(value.item(), rel=0.05, abs=0.1) for key, value in own.items()
    }


@every_kind
@pytest.mark.parametrize("eager", [True, False])
def test_gradients_are_the_weighted_sum(kind: str, eager: bool):
    model, data = model_of(kind), batch(1, (0, 1))
    model.eager_backward = eager
    total, log = model.parse_losses(model(**data, mode="loss"))
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(total, trained)
    losses, _ = model.task_losses(**data)
    terms = [loss * float(log.get(f"weight_{name}", 1)) for name, loss in losses.items()]
    for own, expected in zip(found, torch.autograd.grad(sum(terms), trained), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_validation_and_the_gradient_conflict_see_the_losses_alone():
    model, data = model_of("GeometricMean"), batch(1, (0, 1))
    expected = {f"loss_{name}": x.item() for name, x in task_losses(model, **data).items()}
    assert {key: x.item() for key, x in model.eval()(**data, mode="loss").items()} == expected


@pytest.mark.parametrize("kind", ["DynamicWeightAverage", "FAMO", "Uncertainty"])
def test_a_resumed_training_is_the_same(kind: str, small_run, tmp_path: Path):
    """Interrupted within an update of two batches, in the third epoch; the log has the weights."""
    options = {
        "model.weighting": dict(type=kind, **OPTIONS.get(kind, {})),
        "optim_wrapper.accumulative_counts": 2,
        "default_hooks.checkpoint.by_epoch": False,
        "default_hooks.checkpoint.interval": 3,
        "train_cfg.max_epochs": 3,
        "train_cfg.val_interval": 3,
    }
    run = small_run(options, folder=tmp_path / "first").train()
    resumed = small_run({**options, "load_from": str(run.folder / "iter_9.pth"), "resume": True})
    resumed.train()
    assert resumed.losses == later(run.losses, 9)
    assert resumed.validations == run.validations
    weights = [
        [losses[f"weight_{name}"] for name in run.runner.model.tasks]
        for losses in run.losses.values()
    ]
    assert weights[0] != weights[-1]
    if kind == "Uncertainty":  # the two batches of an update have the same weights
        assert weights[::2] == weights[1::2]
    assert resumed.runner.model.weighting.config["tasks"] == sorted(run.runner.model.tasks)
    other = small_run({**options, "model.weighting": None, "resume": True}, folder=resumed.folder)
    with pytest.raises(InputError, match=f"type of model.weighting: '{kind}' there"):
        other.train()


if __name__ == "__main__":
    fork_group(2, Path(sys.argv[1]), partial(_work, folder=Path(sys.argv[1])))
