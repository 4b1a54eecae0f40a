"""New tasks of a trained model: they learn, and the previous ones stay the same, bit for bit."""

import pytest
import torch
from methods import CASES, ENCODERS, METHODS, TASKS, VIT, scatter

from vmt_mm.checkpoints.keys import task_of_keys
from vmt_mm.engine.optimizers import TrainableOnlyConstructor
from vmt_mm.errors import InputError
from vmt_mm.loading.model import describe, load_model
from vmt_mm.registry import MODELS
from vmt_mm.structures import MultiTaskDataSample

NEW = dict(edge=dict(type="Edge"))
BOTH = {**TASKS, **NEW}
SIZE = (32, 32)


def config(peft, on, tasks=TASKS, new_tasks=None, head="MLPHead", **backbone):
    return dict(
        type="MultiTaskSegmentor",
        tasks=tasks,
        new_tasks=new_tasks,
        backbone=dict(allow_random_backbone=True, peft=peft, **on.config, **backbone),
        head=dict(type=head, channels=8),
    )


def trained(peft, on, **options):
    """A model of the previous tasks with changed values, and the content of its checkpoint."""
    cfg = config(peft, on, **options)
    model = MODELS.build(cfg)
    model.init_weights()
    scatter(model)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer += torch.rand_like(buffer)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return model.eval(), dict(state_dict=state, meta=dict(vmt_mm=describe(model, cfg)))


def extended(peft, on, checkpoint, **options):
    cfg = config(peft, on, BOTH, ["edge"], **options)
    model = MODELS.build(cfg)
    # loading modifies the state dict
    checkpoint = dict(checkpoint, state_dict=dict(checkpoint["state_dict"]))
    load_model(model, checkpoint, "previous.pth", describe(model, cfg), start_new=True)
    return model


def samples():
    generator = torch.Generator().manual_seed(5)
    found = []
    for _ in range(2):
        sample = MultiTaskDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE))
        sample.set_label("semseg", torch.zeros(1, *SIZE, dtype=torch.uint8))
        lines = torch.rand(1, *SIZE, generator=generator) < 0.3
        sample.set_label("edge", lines.to(torch.uint8))
        found.append(sample)
    return found


def images():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(6))


def logits(model, tasks):
    with torch.no_grad():
        return model.eval()(images(), mode="tensor", tasks=list(tasks))


#: MTLoRA-addition refuses new tasks, see test_mtlora.py.
_EXTENSIBLE = [param for param in CASES if param.values[0].method != "MTLoRA-addition"]


@pytest.mark.parametrize("case", _EXTENSIBLE)
def test_only_parameters_of_the_new_task_train(case):
    on, peft = case.on, case.row.peft
    previous, checkpoint = trained(peft, on)
    model = extended(peft, on, checkpoint)
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    own = {n for n, _ in model.named_parameters() if "edge" in n.split(".")}
    assert trains == own
    assert any(name.startswith("heads.edge.") for name in own)
    # without them it is the previous model: keys of one task differ from shared keys
    rest = {k: v for k, v in model.state_dict().items() if "edge" not in k.split(".")}
    assert rest.keys() == checkpoint["state_dict"].keys()
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(rest[key], value), key
    before = logits(previous, TASKS)
    after = logits(model, BOTH)
    for name, values in before.items():
        assert torch.equal(after[name], values), name
    assert after["edge"].isfinite().all()


def test_a_new_task_joins_a_group_of_tasks():
    """It gets copies in the stages with a copy per task, and a head."""

    def peft(**groups):
        method = dict(type="LoRA", rank=2)
        return dict(type="PerTask", method=method, groups=groups, from_stage=1, tasks_from_stage=3)

    previous, checkpoint = trained(peft(all=[*TASKS]), VIT)
    model = extended(peft(all=[*TASKS, "edge"]), VIT, checkpoint)
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(n.startswith(("heads.edge.", "backbone.peft.copies.edge.")) for n in trains)
    assert any("copies.edge" in n for n in trains)
    before, after = logits(previous, TASKS), logits(model, BOTH)
    assert all(torch.equal(after[name], values) for name, values in before.items())
    with pytest.raises(InputError, match="peft.groups: .*'own': \\[\\]} in the config"):
        extended(peft(all=[*TASKS], own=["edge"]), VIT, checkpoint)
    with pytest.raises(InputError, match="peft.groups: .* in the checkpoint"):
        extended(peft(all=["semseg", "edge"], own=["normals"]), VIT, checkpoint)
    with pytest.raises(InputError, match="each task of .*'edge'"):
        extended(peft(all=[*TASKS]), VIT, checkpoint)


@pytest.mark.parametrize(
    ("on", "name", "with_cp"),
    [
        ("swin", "VMTAdapter", False),
        ("swin", "BitFit", False),
        ("vit", "VMTAdapter", True),
        ("vit", "PerTask-LoRA", False),
        ("vit", "PerTask-LoRA", True),
        ("vit", "Hyperformer", False),
    ],
)
def test_training_the_new_task_leaves_the_previous_ones_alone(on, name, with_cp):
    on, peft = ENCODERS[on], METHODS["swin"][name].peft
    previous, checkpoint = trained(peft, on)
    before = logits(previous, TASKS)
    model = extended(peft, on, checkpoint, with_cp=with_cp)
    cfg = dict(optimizer=dict(type="Adam", lr=2e-2, weight_decay=0.1))
    optimizer = TrainableOnlyConstructor(cfg)(model).optimizer
    found, start = [], model.state_dict()
    start = {key: value.clone() for key, value in start.items()}
    for _ in range(5):
        losses = model.train()(images(), samples(), mode="loss")
        assert losses.keys() == {"loss_edge"}
        found.append(losses["loss_edge"].item())
        model.zero_grad()
        losses["loss_edge"].backward()
        optimizer.step()
        for parameter_name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
    assert found[-1] < 0.9 * found[0]
    owner = task_of_keys(start, BOTH)
    for key, value in model.state_dict().items():
        moved = not torch.equal(value, start[key])
        if owner.get(key) != "edge":
            assert not moved, key
        elif value.is_floating_point():
            assert moved, key
    after = logits(model, TASKS)
    for task, values in before.items():
        assert torch.equal(after[task], values), task


def test_frozen_parts_are_in_eval_mode_from_the_start():
    peft = METHODS["swin"]["VMTAdapter"].peft
    model = MODELS.build(config(peft, VIT, BOTH, ["edge"]))
    for _ in range(2):
        assert all(module.training for module in model.heads["edge"].modules())
        for task in TASKS:
            assert not any(module.training for module in model.heads[task].modules())
        assert not any(module.training for module in model.backbone.layers.modules())
        model.eval().train()


def test_the_new_task_starts_as_the_method_and_the_head_start():
    torch.manual_seed(1)
    peft = METHODS["swin"]["VMTAdapter"].peft
    _, checkpoint = trained(peft, VIT, head="mmseg.SegformerHead")
    model = extended(peft, VIT, checkpoint, head="mmseg.SegformerHead")
    for block in model.backbone.peft.blocks:
        assert torch.equal(block.alpha["edge"], torch.ones(20))
        assert torch.equal(block.gamma["edge"], torch.zeros(20))
    assert model.heads["edge"].conv_seg.weight.std() < 0.02  # mmseg's init, not PyTorch's
    # copies of biases start at the frozen backbone's values, not at random ones
    peft = METHODS["swin"]["PerTask-BitFit"].peft
    _, checkpoint = trained(peft, VIT)
    for key, value in checkpoint["state_dict"].items():
        if key.startswith("backbone.layers") and key.endswith("bias"):
            value += 1  # as pretrained ones, which are not 0
    model = extended(peft, VIT, checkpoint)
    for name, copy in model.backbone.peft.parameters_for("edge").items():
        assert torch.equal(copy, checkpoint["state_dict"][f"backbone.{name}"]), name


def test_frozen_weights_may_come_from_the_pretrained_file(tmp_path):
    peft = METHODS["swin"]["VMTAdapter"].peft
    previous, checkpoint = trained(peft, VIT)
    encoder = previous.backbone
    own = {k: v.clone() for k, v in encoder.state_dict().items() if k not in encoder.added_keys}
    torch.save(own, tmp_path / "encoder.pth")
    for key in own:
        del checkpoint["state_dict"][f"backbone.{key}"]
    model = extended(peft, VIT, checkpoint, pretrained=str(tmp_path / "encoder.pth"))
    before, after = logits(previous, TASKS), logits(model, TASKS)
    assert all(torch.equal(before[task], after[task]) for task in TASKS)


def faulty(checkpoint, change):
    change(checkpoint["state_dict"])
    return checkpoint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.peft.blocks.3.alpha.semseg"), "1 missing key"),
        (lambda s: s.pop("backbone.peft.blocks.3.down.weight"), "1 missing key"),
        (lambda s: s.update({"backbone.other": torch.zeros(1)}), "1 unexpected key"),
        # with a part of the new task, it is not a checkpoint of the previous tasks
        (lambda s: s.update({"heads.edge.norm.bias": torch.zeros(8)}), "tasks: "),
    ],
)
def test_every_previous_key_must_be_found_and_no_other_may_be_missing(change, message):
    peft = METHODS["swin"]["VMTAdapter"].peft
    _, checkpoint = trained(peft, VIT)
    with pytest.raises(InputError, match=message):
        extended(peft, VIT, faulty(checkpoint, change))


def test_a_checkpoint_that_lacks_a_task_only_loads_to_start_a_training():
    peft = METHODS["swin"]["VMTAdapter"].peft
    _, checkpoint = trained(peft, VIT)
    cfg = config(peft, VIT, BOTH, ["edge"])
    model = MODELS.build(cfg)
    with pytest.raises(InputError, match="tasks: .* in the checkpoint, .*'edge'"):
        load_model(model, checkpoint, "previous.pth", describe(model, cfg))
    for key in ("meta", "other"):  # and one that does not describe itself
        checkpoint.pop(key, None)
    with pytest.raises(InputError, match=r"missing key\(s\): .*edge"):
        load_model(model, checkpoint, "previous.pth", describe(model, cfg))
    load_model(model, checkpoint, "previous.pth", describe(model, cfg), start_new=True)


@pytest.mark.parametrize(
    "names", [[], ["depth"], ["edge", "edge"], "edge", list(BOTH), {"edge": 1}]
)
def test_new_tasks_are_some_of_the_tasks(names):
    with pytest.raises(InputError, match="`new_tasks` must list some, but not all, of the"):
        MODELS.build(config(dict(type="DecodersOnly"), VIT, BOTH, names))
