"""MTLoRA's equations, counts and options of the backbone, which no other method uses.

test_equations.py compares the features of one pass; here, every task has a stream in some blocks.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from methods import SWIN, TASKS, VIT, build_model, scatter
from naive import build, check, layer_norm, stock_swin, to_maps

from vmt_mm.analysis.counts import WithoutValues, count_operations, summarize_experiment
from vmt_mm.analysis.experiment import load_experiments
from vmt_mm.apis import load_config
from vmt_mm.checkpoints.frozen import frozen_keys
from vmt_mm.engine.optimizers import TrainableOnlyConstructor
from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS

CONFIGS = Path(__file__).parents[2] / "configs/peers"
#: Config -> all trainable parameters, of which 1,946,624 are in the decoders.
PUBLISHED = {
    "mtlora-r64": 8_344_634,
    "mtlora-r32": 6_083_642,
    "mtlora-r16": 4_953_146,
    "mtlora-plus-r64": 7_054_394,
    "mtlora-plus-r32": 4_664_378,
    "mtlora-plus-r16": 3_469_370,
}
ROLES = dict(qkv="attn.w_msa.qkv", proj="attn.w_msa.proj", fc1="ffn.layers.0.0", fc2="ffn.layers.1")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    (experiment,) = load_experiments([str(CONFIGS / f"{name}_swin-t_pascal.py")])
    summary = summarize_experiment(experiment)
    assert summary["decoder_trainable"] == 1_946_624
    assert summary["output_norms"] == 0
    assert summary["total_trainable"] == PUBLISHED[name]
    assert summary["passes"] == "shared"


def test_weight_decay_of_the_recipe():
    cfg = load_config(CONFIGS / "mtlora-r16_swin-t_pascal.py", dict(pretrained=None))
    cfg.model.backbone.allow_random_backbone = True
    with WithoutValues():
        model = MODELS.build(cfg.model)
    options = dict(cfg.optim_wrapper)
    del options["constructor"]
    constructor = TrainableOnlyConstructor(options, options.pop("paramwise_cfg"))
    decays = {
        id(parameter): group["weight_decay"]
        for group in constructor(model).optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            none = parameter.ndim == 1 or name.endswith("bias_table")
            assert decays[id(parameter)] == (0 if none else 0.05), name


def with_updates(encoder, scale):
    """Weight of each layer with a shared update -> W + s B A."""
    state, merged = encoder.state_dict(), {}
    for key in (k for k in state if k.endswith("lora_A")):
        name = key.removesuffix("lora_A")
        update = state[f"{name}lora_B"] @ state[key]
        merged[f"{name}weight"] = state[f"{name}weight"] + scale * update
    return merged


def naive_maps(encoder, images, task, mode, taps, scale, task_scale):
    """The maps of one task: the shared stream, and T streams in the last blocks, one by one."""
    merged = with_updates(encoder, scale)
    stock, state = stock_swin(encoder, merged), encoder.state_dict()
    tasks, maps, index = list(encoder.task_names), [], 0
    x, hw = stock.patch_embed(images)
    for j, stage in enumerate(stock.stages):
        for number, block in enumerate(stage.blocks):
            proj, block.attn.w_msa.proj = block.attn.w_msa.proj, torch.nn.Identity()
            core = block.attn(block.norm1(x), hw)
            block.attn.w_msa.proj = proj
            last = number == len(stage.blocks) - 1
            prefix = f"stages.{j}.blocks.{number}."

            def layer(role, shared, own, prefix=prefix, index=index, last=last):
                """Shared output, and task -> output, of a layer."""
                name = f"{prefix}{ROLES[role]}."
                weight, bias = state[f"{name}weight"], state[f"{name}bias"]
                frozen = shared @ weight.T + bias
                updated = shared @ merged.get(f"{name}weight", weight).T + bias
                if not last:
                    return updated, {}
                start = updated if mode == "matrixv2" else frozen
                factors = encoder.peft.blocks[index]
                of_tasks = {
                    t: start
                    + task_scale * (own[t] @ factors[f"{role}_A"][t].T @ factors[f"{role}_B"][t].T)
                    for t in tasks
                }
                if mode == "addition":
                    norm = [state[f"{name}lora_norm.{p}"] for p in ("weight", "bias")]
                    updated = frozen + layer_norm(sum(of_tasks.values()), *norm)
                return updated, of_tasks

            p, p_t = layer("proj", core, dict.fromkeys(tasks, core))
            y, y_t = x + p, {t: x + v for t, v in p_t.items()}
            normed = {t: block.norm2(v) for t, v in y_t.items()}
            f1, f1_t = layer("fc1", block.norm2(y), normed)
            u_t = {t: F.gelu(v) for t, v in f1_t.items()}
            f2, f2_t = layer("fc2", F.gelu(f1), u_t)
            x, index = y + f2, index + 1
        o, own_hw = y_t[task] + f2_t[task], hw
        if stage.downsample is not None:
            if taps == "merged":
                o, own_hw = stage.downsample(o, hw)
            x, hw = stage.downsample(x, hw)
        maps.append(to_maps(o if taps == "merged" else getattr(stock, f"norm{j}")(o), own_hw))
    return maps


@pytest.mark.parametrize(
    ("mode", "taps", "plus"),
    [
        ("matrix", "merged", False),
        ("matrix", "stage", False),
        ("matrix", "merged", True),
        ("matrixv2", "merged", True),
        ("addition", "stage", False),
    ],
)
def test_tails_equal_streams_computed_one_by_one(mode, taps, plus):
    scales = dict(scale=0.7, task_scale=1.3)
    peft = dict(type="MTLoRA", rank=3, task_rank=2, mode=mode, plus=plus, **scales)
    encoder = build(taps, **peft)
    check(encoder, lambda images, task: naive_maps(encoder, images, task, mode, taps, **scales))


def losses(model, images):
    """A loss per task."""
    maps = model.backbone(images)
    return {t: sum((level.sin()).sum() for level in levels) for t, levels in maps.items()}


@pytest.mark.parametrize("mode", ["matrix", "matrixv2"])
@pytest.mark.parametrize("on", [SWIN, VIT], ids=["swin", "vit"])
def test_a_tasks_parameters_get_gradients_from_its_own_loss_alone(on, mode):
    model = scatter(build_model(dict(type="MTLoRA", rank=2, mode=mode), on=on)).train()
    own = losses(model, torch.randn(2, 3, 32, 32))
    own["semseg"].backward()
    for name, parameter in model.backbone.peft.named_parameters():
        gradient = parameter.grad is not None and parameter.grad.abs().max() > 0
        assert gradient == name.endswith(".semseg"), name


@pytest.mark.parametrize("mode", ["matrix", "matrixv2"])
def test_another_task_changes_no_output(mode):
    peft, images = dict(type="MTLoRA", rank=2, mode=mode), torch.randn(1, 3, 40, 32)
    old = scatter(build_model(peft)).eval()
    tasks = dict(TASKS, depth=dict(type="Depth"))
    new = scatter(build_model(peft, tasks=tasks)).eval()
    missing, unexpected = new.load_state_dict(old.state_dict(), strict=False)
    assert unexpected == [] and all("depth" in key for key in missing)
    with torch.no_grad():
        own, expected = new.backbone(images), old.backbone(images)
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(own[task], expected[task], strict=True))


def build_segmentor(**options):
    backbone = dict(type="MultiTaskSwin", arch="nano", allow_random_backbone=True)
    return MODELS.build(
        dict(type="MultiTaskSegmentor", tasks=TASKS, head=dict(type="MLPHead", channels=8),
             backbone=backbone | options.pop("backbone"), **options)
    )  # fmt: skip


def test_new_tasks_are_refused_if_they_change_the_others():
    peft = dict(type="MTLoRA", rank=2, mode="addition")
    with pytest.raises(InputError, match="`new_tasks`: with MTLoRA as configured, a new task"):
        build_segmentor(backbone=dict(peft=peft), new_tasks=["normals"])
    model = build_segmentor(backbone=dict(peft=dict(type="MTLoRA")), new_tasks=["normals"])
    trained = [n for n, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained and all(name.endswith(".normals") for name in trained)


def test_dropout_and_stochastic_depth_are_drawn_per_stream():
    images, peft = torch.randn(8, 3, 32, 32), dict(type="MTLoRA", rank=2, dropout=0.5)
    for depth in (0.0, 0.5):
        encoder = build_model(peft, drop_path_rate=depth).backbone.train()
        semseg, normals = (maps[3] for maps in encoder(images).values())
        assert torch.equal(semseg, normals) == (depth == 0)  # all updates start at 0
    encoder = scatter(build_model(peft)).backbone.train()
    first, second = (encoder(images)["semseg"][0] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_task_costs_no_full_product():
    """Operations with T = 4 over T = 1, at the proportions of Swin-T."""
    images, cost = torch.randn(1, 3, 64, 64), []
    for tasks in (1, 4):
        encoder = MODELS.build(
            dict(type="MultiTaskSwin", tasks=[f"t{n}" for n in range(tasks)], taps="merged",
                 allow_random_backbone=True, peft=dict(type="MTLoRA", rank=16))
        ).eval()  # fmt: skip
        with torch.no_grad():
            cost.append(count_operations(lambda encoder=encoder: encoder(images)))
    assert cost[1] / cost[0] < 1.15  # 4 % per task


@pytest.mark.parametrize("mode", ["matrix", "addition"])
def test_merging_changes_no_output(mode):
    encoder = build("merged", type="MTLoRA", rank=2, mode=mode, plus=True)
    images = torch.randn(1, 3, 40, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = encoder(images)["normals"]
        assert not encoder.merge_method(["normals"])
        for own, theirs in zip(encoder(images)["normals"], expected, strict=True):
            torch.testing.assert_close(own, theirs)
    assert not any(name.endswith("qkv.lora_A") for name in encoder.state_dict())


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        (dict(rank=0), "MTLoRA: `rank` must be a positive integer, got 0"),
        (dict(task_rank=0), "MTLoRA: `task_rank` must be a positive integer, got 0"),
        (dict(dropout=1), r"MTLoRA: `dropout` must be in \[0, 1\), got 1"),
        (dict(mode="sum"), r"MTLoRA: `mode` must be in \['matrix', 'matrixv2', 'addition'\]"),
        (dict(unfreeze=["norms"]), r"`unfreeze` must be .*\['norm', .*, got \['norms'\]"),
        (dict(unfreeze="norm"), "`unfreeze` must be a list .*, got 'norm'"),
    ],
)
def test_wrong_settings(peft, message):
    with pytest.raises(InputError, match=message):
        build_model(dict(type="MTLoRA", **peft))


def test_per_task_copies_of_tails_are_refused():
    with pytest.raises(InputError, match="MTLoRA already has separate features per task"):
        build_model(dict(type="PerTask", method=dict(type="MTLoRA")))


def names(encoder):
    return {name for name, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("method", ["DecodersOnly", "LoRA", "VMTAdapter"])
def test_any_method_can_unfreeze(method):
    plain = names(build_model(dict(type=method)).backbone)
    model = build_model(dict(type=method, unfreeze=("relative_position", "reduction")))
    more = names(model.backbone) - plain
    assert len(more) == 5 + 3
    assert all("bias_table" in name or "reduction" in name for name in more)
    assert model.backbone.added_keys.isdisjoint(more)
    # a checkpoint stores them, and the record of the frozen tensors covers the others
    assert frozen_keys(model).isdisjoint(f"backbone.{name}" for name in more)


def test_copies_per_task_include_what_is_unfrozen():
    method = dict(type="LoRA", rank=2, unfreeze=["patch_embed"])
    encoder = scatter(build_model(dict(type="PerTask", method=method))).backbone.eval()
    assert "peft.copies.normals.patch_embed__projection__weight" in names(encoder)
    with torch.no_grad():
        maps = encoder(torch.randn(1, 3, 32, 32))
    assert not torch.equal(maps["semseg"][0], maps["normals"][0])
    with pytest.raises(InputError, match="PerTask: `unfreeze` must be in `method`"):
        build_model(dict(type="PerTask", method=dict(type="LoRA"), unfreeze=["norm"]))


def test_groups_that_the_backbone_lacks():
    with pytest.raises(InputError, match="no parameter of 'reduction', only of .'norm', 'patch"):
        build_model(dict(type="LoRA", unfreeze=["reduction"]), on=VIT)
    trained = names(build_model(dict(type="LoRA", unfreeze=["norm"]), on=VIT).backbone)
    assert {"layers.0.ln1.weight", "layers.4.ln2.bias", "ln1.weight"} <= trained
    # by default, MTLoRA takes those that there are
    assert "ln1.weight" in names(build_model(dict(type="MTLoRA"), on=VIT).backbone)


def test_maps_after_merging_are_those_of_the_stock_layers():
    encoder = build("merged", type="LoRA", rank=2)
    with torch.no_grad():
        for layer in (m for m in encoder.modules() if hasattr(m, "lora_B")):
            layer.lora_B.zero_()
    assert encoder.out_channels == (40, 80, 160, 160)

    def expected(images, _):
        stock, maps = stock_swin(encoder), []
        x, hw = stock.patch_embed(images)
        for stage in stock.stages:
            x, hw, _, _ = stage(x, hw)
            maps.append(to_maps(x, hw))
        return maps

    check(encoder, expected)


def test_output_norms_are_not_trained_if_maps_are_merged():
    encoder = build_model(dict(type="FullFineTuning"), taps="merged").backbone
    assert not any(name.startswith("norm0") for name in names(encoder))
    assert "norm0.weight" in encoder.state_dict()
    encoder.train()(torch.randn(1, 3, 40, 32))["semseg"][3].sum()
    with pytest.raises(InputError, match="VMTAdapter adds features of the stage to its map"):
        build_model(dict(type="VMTAdapter"), taps="merged")
    with pytest.raises(InputError, match="`taps` must be 'stage' or 'merged', got 'end'"):
        build_model(dict(type="LoRA"), taps="end")
