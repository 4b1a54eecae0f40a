"""New methods, tasks, weightings need no edit under ``vmt_mm/``, which compares no name of one."""

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

import vmt_mm
from vmt_mm.peft import PEFTMethod, SideOutput
from vmt_mm.registry import MODELS, PEFT_METHODS, TASKS, WEIGHTINGS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import LabelSpec, Task
from vmt_mm.weighting import Weighting


@PEFT_METHODS.register_module(force=True)
class ToyShift(PEFTMethod):
    """Adds one vector to the residual stream after every block."""

    def attach(self, backbone):
        self.shifts = nn.ParameterList(
            nn.Parameter(torch.zeros(b.channels)) for b in backbone.block_specs
        )

    def parallel_to_mlp(self, index, y, grid):
        return SideOutput(residual=self.shifts[index].expand_as(y))


class Count(LabelSpec):
    fill = -1


@TASKS.register_module(force=True)
class ToyCount(Task):
    """Regresses one number per pixel."""

    label = Count()
    out_channels = 1

    def loss(self, logits, target):
        return (logits - target).square().mean()

    def to_prediction(self, logits):
        return logits.round()

    def draw(self, values, meta):
        return np.repeat(np.uint8(values[0])[..., None], 3, axis=-1)


@WEIGHTINGS.register_module(force=True)
class ToySquares(Weighting):
    """Adds the squares of the losses."""

    def objective(self, losses, present):
        return losses.square().sum()


def test_toy_method_toy_task_and_toy_weighting_train():
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=dict(count=dict(type="ToyCount")),
            backbone=dict(
                type="MultiTaskSwin",
                arch="nano",
                allow_random_backbone=True,
                peft=dict(type="ToyShift"),
            ),
            head=dict(type="MLPHead", channels=8),
            weighting=dict(type="ToySquares"),
        )
    )
    model.backbone.init_weights()
    sample = MultiTaskDataSample()
    sample.set_label("count", torch.ones(1, 32, 32))
    losses = model(torch.randn(1, 3, 32, 32), [sample], mode="loss")
    torch.testing.assert_close(losses["loss"], losses["loss_count"] ** 2)
    losses["loss"].backward()
    assert all(p.grad.abs().max() > 0 for p in model.backbone.peft.parameters())


def test_no_file_asks_for_a_task_or_method_by_name():
    names = "semseg|human_parts|saliency|normals|edge|depth|vmt_adapter|lora|bitfit"
    asks = re.compile(rf"""(==|!=|\bin)\s*[\(\[]?["']({names})["']""")
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(vmt_mm.__file__).parent.rglob("*.py")
        for line in path.read_text().splitlines()
        if asks.search(line)
    ]
    assert found == []
