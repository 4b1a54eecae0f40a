"""Three processes train a new task: frozen parameters neither block DDP nor change."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from methods import METHODS, TASKS, VIT
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from processes import fork_group, run_forked

from vmt_mm.engine.hooks.averages import SyncBuffersHook
from vmt_mm.registry import MODELS
from vmt_mm.structures import MultiTaskDataSample

SIZE = (32, 32)


@pytest.mark.processes
def test_three_processes(tmp_path):
    run_forked(__file__, tmp_path)


def build() -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks={**TASKS, "edge": dict(type="Edge")},
            new_tasks=["edge"],
            backbone=dict(
                allow_random_backbone=True, peft=METHODS["vit"]["VMTAdapter"].peft, **VIT.config
            ),
            head=dict(type="MLPHead", channels=64),
        )
    )
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer += torch.rand_like(buffer)
    return model


def sample(labelled: bool) -> MultiTaskDataSample:
    found = MultiTaskDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE))
    if labelled:
        found.set_label("edge", torch.ones(1, *SIZE, dtype=torch.uint8))
    return found


def work(rank: int) -> None:
    init_default_scope("vmt_mm")
    model = build()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    wrapped = MMDistributedDataParallel(model, broadcast_buffers=False)
    trains = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trains, lr=0.1)
    for step in range(2):
        torch.manual_seed(10 * rank + step)
        images = torch.randn(2, 3, *SIZE)
        # one process has no labels in the second step
        samples = [sample(step == 0 or rank > 0) for _ in range(2)]
        wrapped.train()
        losses = wrapped(images, samples, mode="loss")
        assert losses.keys() == {"loss_edge"}
        optimizer.zero_grad()
        losses["loss_edge"].backward()
        optimizer.step()
    own = {key: value.clone() for key, value in model.state_dict().items()}
    SyncBuffersHook().after_train_epoch(SimpleNamespace(model=wrapped))
    for key, value in model.state_dict().items():
        statistics = "running" in key
        if "edge" not in key.split("."):
            assert torch.equal(value, start[key]), key
        elif value.is_floating_point():
            assert torch.equal(value, own[key]) != statistics, key
            gathered = [torch.empty_like(value) for _ in range(3)]
            torch.distributed.all_gather(gathered, value)
            assert torch.equal(gathered[0], gathered[2]), key


if __name__ == "__main__":
    fork_group(3, Path(sys.argv[1]), work)
