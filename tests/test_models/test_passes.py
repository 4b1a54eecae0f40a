"""Task streams that split in the middle of a stage."""

import copy

import pytest
import torch
from methods import SWIN, TASKS, VIT, ConvolvesPatches, build_model, scatter
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.task_streams import PerTaskCall
from vmt_mm.peft import PEFTMethod, SideOutput
from vmt_mm.peft.lora import LoRALinear
from vmt_mm.registry import MODELS


class ShiftsOneBlock(PEFTMethod):
    """Adds a task vector to the residual stream at one block, and records every block's y."""

    per_task_forward = True
    where = 3

    def attach(self, encoder):
        self.blocks = nn.ModuleList(nn.Module() for _ in encoder.block_specs)
        self.blocks[self.where].register_parameter("shift", None)
        width = encoder.block_specs[self.where].channels
        self.stages = [block.stage for block in encoder.block_specs]
        self.shifts = nn.ParameterDict({t: torch.randn(width) for t in encoder.task_names})

    def parameters_for(self, task):
        return {f"peft.blocks.{self.where}.shift": self.shifts[task]}

    def parallel_to_mlp(self, index, y, grid):
        stream = self.blocks[index].shift.expand_as(y) if index == self.where else None
        return SideOutput(stream, (index + 1) * y)

    def task_features(self, stage, feature, kept, tasks, grid):
        assert len(kept) == self.stages.count(stage)
        return dict.fromkeys(tasks, feature + sum(kept))


@pytest.fixture
def encoder():
    encoder = MODELS.build(
        dict(type="MultiTaskSwin", arch="nano", tasks=list(TASKS), allow_random_backbone=True,
             peft=dict(type=ShiftsOneBlock))
    )  # fmt: skip
    encoder.init_weights()
    return encoder.eval()


def test_a_split_within_a_stage_keeps_earlier_side_outputs(encoder):
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


THREE = dict(TASKS, depth=dict(type="Depth"))
GROUPS = dict(flat=["semseg", "depth", "other"], shape=["normals"])
METHODS = [
    dict(type=ShiftsOneBlock),
    dict(type="PerTask", method=dict(type="Adapter", scale=0.5)),
    dict(type="PerTask", method=dict(type=ConvolvesPatches)),
    dict(type="Hyperformer", ratio=4),
    dict(type="Polyhistor", ratio=4),
]


@pytest.mark.parametrize("peft", METHODS, ids=lambda cfg: getattr(cfg["type"], "__name__", None))
@pytest.mark.parametrize("on", [SWIN, VIT], ids=["swin", "vit"])
def test_tasks_in_a_joint_batch_equal_single_tasks(monkeypatch, on, peft):
    model = build_model(peft, on=on)
    encoder = model.backbone.train()
    for parameter in encoder.peft.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    batches = []
    last = encoder.get_submodule(on.blocks[-1]).norm2
    last.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    images = torch.randn(3, 3, 32, 32)
    trained = [p for p in encoder.parameters() if p.requires_grad]

    def run():
        maps = encoder(images)
        loss = sum((n + 1) * m.tanh().sum() for n, t in enumerate(maps) for m in maps[t])
        return maps, torch.autograd.grad(loss, trained) if trained else ()

    joined, own = run()
    assert batches == [3 * len(TASKS)]
    monkeypatch.setattr(encoder, "batch_tasks", False)
    apart, other = run()
    assert batches[1:] == [3] * len(TASKS)
    for task in TASKS:
        for a, b in zip(joined[task], apart[task], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, b.abs().max().item()))


@pytest.mark.parametrize("method", ["LoRA", "BitFit"])
def test_methods_that_change_the_backbones_layers_have_separate_streams(method):
    model = build_model(dict(type="PerTask", method=dict(type=method)))
    batches = []
    last = model.backbone.get_submodule(SWIN.blocks[-1]).norm2
    last.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    model.backbone.train()(torch.randn(3, 3, 32, 32))
    assert batches == [3] * len(TASKS)


def test_side_outputs_of_tasks_join():
    x = torch.arange(8.0).view(4, 1, 2)
    calls = [lambda hook, part: hook(part)] * 2
    call = PerTaskCall(calls)
    assert call(lambda part: part, x) is x
    assert torch.equal(call(lambda part: 2 * part, x), 2 * x)
    side = call(lambda part: SideOutput(part, None, 0.5), x)
    assert torch.equal(side.residual, 0.5 * x)
    assert (side.task_feature, side.scale) == (None, 1)
    side = call(lambda part: SideOutput(part, 3 * part, part.max()), x)
    assert torch.equal(side.residual, torch.cat([3 * x[:2], 7 * x[2:]]))
    assert torch.equal(side.task_feature, 3 * x)
    assert side.scale == 1
    assert call(lambda part: SideOutput(), x).residual is None


def test_parts_of_keys():
    places = {
        "patch_embed.norm.bias": "patch_embed",
        "stages.0.blocks.1.norm1.weight": "stages.0.blocks.1",
        "stages.2.downsample.norm.bias": "stages.2.downsample",
        "norm0.bias": "norm0",
    }
    encoder = build_model(dict(type="PerTask", method=dict(type="FullFineTuning"))).backbone
    assert {key: encoder._part_of[key] for key in places} == places
    encoder = build_model(dict(type="PerTask", method=dict(type="Adapter"))).backbone
    assert encoder._part_of["peft.method.blocks.3.up.bias"] == "stages.2.blocks.0"
    encoder = build_model(dict(type="Hyperformer", ratio=4)).backbone
    assert encoder._part_of["peft.blocks.1.after_mlp.down.weight"] == "stages.0.blocks.1"
    encoder = build_model(dict(type="PerTask", method=dict(type="FullFineTuning")), on=VIT).backbone
    assert encoder._part_of["pos_embed"] == "embed"  # a parameter outside modules
    for key in ("norm01.bias", "pos_embeds", "layers.11.ln1.weight", "peft.generators.0.weight"):
        with pytest.raises(InputError, match=key):
            encoder._find_part(key)


def progressive(on, method, **backbone):
    """Shared in stage 0, per group in stages 1 and 2, per task in stage 3; random values."""
    peft = dict(type="PerTask", method=method, from_stage=1, tasks_from_stage=3, groups=GROUPS)
    encoder = build_model(peft, tasks=THREE, on=on, **backbone).backbone
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def own_state(encoder, task):
    """Keys and values of a model of one task with the same method."""
    state, renamed = encoder.state_dict(), {}
    group = "shape" if task == "normals" else "flat"
    for key, value in state.items():
        for prefix in (f"peft.copies.{task}.", f"peft.group_copies.{group}."):
            if key.startswith(prefix):
                key = key.removeprefix(prefix).replace("__", ".")
        renamed[key.replace("peft.method.", "peft.")] = value
    return {k: v for k, v in renamed.items() if not k.startswith(("peft.copies", "peft.group"))}


@pytest.mark.parametrize("on", [SWIN, VIT], ids=["swin", "vit"])
@pytest.mark.parametrize(
    "method",
    [dict(type="LoRA", train_norm=True), dict(type="Adapter"), dict(type="Mona", hidden=4)],
    ids=lambda method: method["type"],
)
def test_progressive_sharing_equals_a_model_per_task(on, method):
    encoder = progressive(on, method).double().eval()
    blocks = [encoder.get_submodule(name) for name in on.blocks]
    calls = [0] * len(blocks)
    for index, block in enumerate(blocks):
        norm = block.get_submodule("norm2")
        norm.register_forward_hook(
            lambda *_, index=index: calls.__setitem__(index, calls[index] + 1)
        )
    images = torch.randn(2, 3, 61, 45, dtype=torch.float64)
    with torch.no_grad():
        features = encoder(images)
        assert calls == [(1, 2, 2, 3)[stage] for stage in on.stages]
        for task in THREE:
            plain = build_model(method, tasks={task: THREE[task]}, on=on).backbone.double().eval()
            plain.load_state_dict(own_state(encoder, task))
            for a, b in zip(features[task], plain(images)[task], strict=True):
                assert torch.equal(a, b)
            for a, b in zip(features[task], encoder(images, [task])[task], strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("method", ["LoRA", "Adapter"])
def test_a_loss_trains_what_its_task_uses(method, recompute):
    encoder = progressive(SWIN, dict(type=method), with_cp=recompute).train()
    images = torch.randn(2, 3, 32, 32)
    maps = encoder(images)["depth"]
    sum(level.tanh().sum() for level in maps).backward()
    trained = {n for n, p in encoder.named_parameters() if p.grad is not None and p.grad.any()}
    everything = {n for n, p in encoder.named_parameters() if p.requires_grad}
    other = ("peft.copies.semseg", "peft.copies.normals", "peft.group_copies.shape")
    assert trained == {name for name in everything if not name.startswith(other)}


def test_groups_in_a_joint_batch_equal_groups_apart(monkeypatch):
    encoder = progressive(SWIN, dict(type="Adapter", scale=0.5)).train()
    batches, images = [], torch.randn(2, 3, 32, 32)
    for name in SWIN.blocks:
        norm = encoder.get_submodule(name).norm2
        norm.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    trained = [p for p in encoder.parameters() if p.requires_grad]
    results = []
    for joined in (True, False):
        monkeypatch.setattr(encoder, "batch_tasks", joined)
        maps = encoder(images)
        loss = sum((n + 1) * m.tanh().sum() for n, t in enumerate(THREE) for m in maps[t])
        levels = [level for task in THREE for level in maps[task]]
        results.append([*levels, *torch.autograd.grad(loss, trained)])
    assert batches == [2, 2, 4, 4, 6] + [2, 2] + [2] * 2 + [2] * 2 + [2] * 3
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(1.0, b.abs().max().item()))


def test_blocks_that_tasks_share_are_merged():
    encoder = progressive(SWIN, dict(type="LoRA")).double().eval()
    merged, images = copy.deepcopy(encoder), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert not merged.merge_method()
    left = {n for n, m in merged.named_modules() if isinstance(m, LoRALinear)}
    blocks = [name for name, stage in zip(SWIN.blocks, SWIN.stages, strict=True) if stage > 0]
    assert left == {f"{name}.attn.w_msa.qkv" for name in blocks}
    with torch.no_grad():
        expected, given = encoder(images), merged(images)
    for task in THREE:
        for a, b in zip(given[task], expected[task], strict=True):
            assert (a - b).abs().max() <= 1e-10 * b.abs().max()


def test_tasks_of_a_group_are_merged_into_one_model():
    peft = dict(type="PerTask", method=dict(type="LoRA"), groups=GROUPS)
    encoder = scatter(build_model(peft, tasks=THREE)).backbone.double().eval()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = encoder(images)
        assert encoder.merge_method(["depth", "semseg"])
        given = encoder(images)
    assert torch.equal(given["depth"][3], given["semseg"][3])
    assert (given["depth"][3] - expected["depth"][3]).abs().max() <= 1e-10
