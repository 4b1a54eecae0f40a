"""Streams of tasks that part in the middle of a stage."""

import pytest
import torch
from methods import TASKS
from torch import nn

from vmt_mm.models.backbones.passes import part_of
from vmt_mm.peft import BlockSpec, Branch, PEFTMethod, PerTask
from vmt_mm.registry import MODELS


class ShiftsOneBlock(PEFTMethod):
    """Adds a vector of the task to the stream at one block, and keeps every block's y."""

    passes = "per_task"
    where = 3

    def attach(self, encoder):
        self.blocks = nn.ModuleList(nn.Module() for _ in encoder.blocks)
        self.blocks[self.where].register_parameter("shift", None)
        width = encoder.blocks[self.where].channels
        self.shifts = nn.ParameterDict({t: torch.randn(width) for t in encoder.task_names})

    def parameters_for(self, task):
        return {f"peft.blocks.{self.where}.shift": self.shifts[task]}

    def beside_mlp(self, index, y):
        stream = self.blocks[index].shift.expand_as(y) if index == self.where else None
        return Branch(stream, (index + 1) * y)

    def for_decoders(self, stage, feature, kept, tasks):
        assert len(kept) == 2
        return dict.fromkeys(tasks, feature + sum(kept))


@pytest.fixture
def encoder():
    encoder = MODELS.build(
        dict(type="MultiTaskSwin", arch="nano", tasks=list(TASKS), allow_random_backbone=True,
             peft=dict(type=ShiftsOneBlock))
    )  # fmt: skip
    encoder.init_weights()
    return encoder.eval()


def test_a_split_within_a_stage_keeps_what_came_before(encoder):
    images = torch.randn(1, 3, 32, 32)
    calls = []
    for number in range(2):  # both blocks of stage 1: indices 2 and 3
        norm = encoder.stages[1].blocks[number].norm1
        norm.register_forward_hook(lambda *_, number=number: calls.append(number))
    with torch.no_grad():
        together = encoder(images)
        assert calls == [0, 1, 1]  # the tasks differ from the second block on
        for task in TASKS:
            for a, b in zip(together[task], encoder(images, [task])[task], strict=True):
                assert torch.equal(a, b)
    same = [torch.equal(*levels) for levels in zip(*together.values(), strict=True)]
    assert same == [True, False, False, False]


def test_parts_of_keys():
    blocks = [BlockSpec(0, 4, "stages.0.blocks.0"), BlockSpec(0, 4, "stages.0.blocks.1")]
    method = PerTask(dict(type="BitFit"))
    parts = ["patch_embed", "stages.0.blocks.0", "stages.0.blocks.1", "norm0"]
    places = {
        "patch_embed.norm.bias": "patch_embed",
        "stages.0.blocks.1.norm1.weight": "stages.0.blocks.1",
        "peft.blocks.1.down.weight": "stages.0.blocks.1",
        "peft.method.blocks.0.up.bias": "stages.0.blocks.0",
        "norm0.bias": "norm0",
    }
    for key, part in places.items():
        assert part_of(key, parts, blocks, method) == part
    for key in ("norm01.bias", "stages.0.blocks.11.norm1.weight", "peft.generators.0.weight"):
        with pytest.raises(KeyError, match=key):
            part_of(key, parts, blocks, method)
