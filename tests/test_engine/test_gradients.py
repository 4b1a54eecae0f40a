"""Gradients over two processes: equal on both, and those of one batch with both halves."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from methods import CASES, Case, build_model, scatter
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from processes import fork_group, run_forked
from torch import Tensor, nn

from vmt_mm.engine.loops import seed_iteration
from vmt_mm.structures import MultiTaskDataSample

_TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=5),
    saliency=dict(type="Saliency", loss_weight=5.0),
    normals=dict(type="Normals", loss_weight=10.0),
)
#: Labels are missing with one method of each kind only: methods do not see labels.
_KINDS = ("VMTAdapter", "VMTAdapter-learnable", "DecodersOnly", "FullFineTuning", "PerTask-LoRA")
_PARTLY = [param for param in CASES if param.values[0].method in _KINDS]


def _model(case: Case) -> nn.Module:
    torch.manual_seed(3)
    # with the heads' dropout
    return scatter(build_model(case.row.peft, _TASKS, channels=16, on=case.on)).train()


def _file(folder: Path, case: Case, partly: bool, rank: int) -> Path:
    return folder / f"{'_'.join(case)}_{partly}_{rank}.pt"


def _half(number: int, partly: bool) -> tuple[Tensor, list[MultiTaskDataSample]]:
    """The images of one process; with ``partly``, the first process has no labels of normals."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    samples = []
    for _ in range(2):
        sample = MultiTaskDataSample()
        labels = dict(
            semseg=torch.randint(0, 5, (1, 32, 32), generator=generator).byte(),
            saliency=torch.randint(0, 2, (1, 32, 32), generator=generator).byte(),
            normals=torch.randn(3, 32, 32, generator=generator),
        )
        for name, label in labels.items():
            if not (partly and number == 0 and name == "normals"):
                sample.set_label(name, label)
        samples.append(sample)
    return images, samples


def _backward(model: nn.Module, rank: int, partly: bool) -> None:
    images, samples = _half(rank, partly)
    seed_iteration(0, rank, 0)
    sum(model(images, samples, mode="loss").values()).backward()


def _gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {
        name: None if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _work(rank: int, folder: Path) -> None:
    init_default_scope("vmt_mm")
    for names, partly in json.loads((folder / "cases.json").read_text()):
        model = _model(case := Case(*names))
        # the wrapper of the tools, with find_unused_parameters=False
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
        assert not wrapped.find_unused_parameters
        _backward(wrapped, rank, partly)
        torch.save(_gradients(model), _file(folder, case, partly, rank))
        dist.barrier()


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of both processes, by case, for the selected tests."""
    folder = tmp_path_factory.mktemp("gradients")
    values = [item.callspec.params for item in request.session.items if item.path == request.path]
    cases = [(value["case"], value["partly"]) for value in values]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_forked(__file__, folder)
    return folder


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """One thread, as in the processes: sums over more threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.processes
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    ("case", "partly"),
    [pytest.param(p.values[0], partly, id=f"{p.id}-{partly}", marks=p.marks)
     for partly, params in ((False, CASES), (True, _PARTLY)) for p in params],
)  # fmt: skip
def test_processes_get_the_mean_of_the_halves(folder: Path, case: Case, partly: bool) -> None:
    first, second = (
        torch.load(_file(folder, case, partly, rank), weights_only=True) for rank in (0, 1)
    )
    model = _model(case)
    halves = []
    for rank in (0, 1):
        model.zero_grad()
        # the loss of normals is a mean over the labels of both processes, which one of them has
        model.update_shares = dict.fromkeys(_TASKS, 1.0) | dict(normals=2.0 * rank)
        if not partly:
            model.update_shares = None
        _backward(model, rank, partly)
        halves.append(_gradients(model))
    assert first.keys() == second.keys() == halves[0].keys()
    for name, gradient in first.items():
        # every trainable parameter has a gradient, whatever labels a process had
        assert torch.equal(gradient, second[name]), name
        mean = (halves[0][name] + halves[1][name]) / 2
        assert torch.allclose(gradient, mean, atol=1e-6, rtol=1e-6), name
    assert sum(gradient.abs().sum() for gradient in first.values()) > 0
    if partly:  # without labels, gradients of the head are 0
        assert not halves[0]["heads.normals.predict.weight"].any()


if __name__ == "__main__":
    fork_group(2, Path(sys.argv[1]), partial(_work, folder=Path(sys.argv[1])))
