"""Every method satisfies the contract; the rows are in `tests/helpers/methods.py`."""

import copy

import pytest
import torch
from methods import CASES, ENCODERS, METHODS, TASKS, Case, build_model, scatter

from vmt_mm import peft
from vmt_mm.engine.optimizers import TrainableOnlyConstructor
from vmt_mm.errors import InputError
from vmt_mm.loading.model import load_model
from vmt_mm.registry import PEFT_METHODS
from vmt_mm.utils.compat import has

#: Methods whose parameters are those of the backbone, or are added to them.
LINEAR = ("LoRA", "BitFit", "RelativeBias", "FullFineTuning", "DecodersOnly")


def step(model, optimizer=None):
    """One training step on a random target for every task's logits."""
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    logits = model.train()(images, mode="tensor")
    loss = 0
    for values in logits.values():
        loss = loss + (values - torch.randn(values.shape, generator=generator)).square().mean()
    model.zero_grad()
    loss.backward()
    if optimizer:
        optimizer.step()


def adam(model):
    config = dict(optimizer=dict(type="Adam", lr=1e-2, weight_decay=0.1))
    return TrainableOnlyConstructor(config)(model).optimizer


def test_every_method_has_a_row():
    used = {row.peft["type"] for row in METHODS["swin"].values()}
    own = {n for n, c in PEFT_METHODS.module_dict.items() if c.__module__.startswith(peft.__name__)}
    assert used == own


@pytest.mark.parametrize("encoder", ENCODERS)
def test_only_methods_on_relative_positions_are_refused_without_them(encoder):
    on = ENCODERS[encoder]
    without = METHODS["swin"].keys() - METHODS[encoder].keys()
    of_swin = {"RelativeBias", "PerTask-RelativeBias", "MTLoRA-plus", "MTLoRA-addition"}
    assert without == (set() if on.table_heads else of_swin)
    for name in without - {"MTLoRA-addition"}:  # works everywhere, and is tested on Swin
        reason = "needs 'relative_position_table' in every block"
        with pytest.raises(InputError, match="needs patch merging" if "plus" in name else reason):
            build_model(METHODS["swin"][name].peft, on=on)


def _compiled(case):
    """Compile each backbone once, shared, per task or with tails: a trace takes seconds."""
    usual = dict(swin=("VMTAdapter", "MTLoRA"), vit=("PerTask-LoRA",))
    marks = (
        ()
        if case.method in usual.get(case.encoder, ("VMTAdapter",))
        else pytest.mark.every_backbone
    )
    return pytest.param(case, id="-".join(case), marks=marks)


#: Hyperformer swaps in generated parameters the same way as copies.
_COMPILED = [
    _compiled(Case(encoder, method))
    for encoder in ENCODERS
    for method in ("VMTAdapter", "PerTask-LoRA", "Hyperformer", "MTLoRA")
]


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def on(case):
    return case.on


@pytest.fixture
def row(case):
    return case.row


@pytest.fixture
def model(row, on):
    return build_model(row.peft, on=on)


def test_trainable_and_saved_parameters(row, model, on):
    trainable = {n: p.numel() for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert trainable.keys() == row.trains
    assert sum(trainable.values()) == row.count
    assert all(p.requires_grad for p in model.heads.parameters())
    added = row.trains - on.sizes.keys()
    assert set(model.backbone.state_dict()) == on.keys | added
    assert model.backbone.added_keys == added


def same(a, b, row):
    """Whether two maps are equal, bit for bit unless the row has a tolerance."""
    return torch.equal(a, b) or (a - b).abs().max() <= row.tolerance * b.abs().max()


def test_start_equals_the_frozen_backbone(row, model, on):
    state = model.backbone.state_dict()
    frozen = build_model(dict(type="DecodersOnly"), on=on).backbone
    frozen.load_state_dict({k: v for k, v in state.items() if k not in model.backbone.added_keys})
    images = torch.randn(1, 3, 48, 40)
    with torch.no_grad():
        own, expected = model.backbone.eval()(images), frozen.eval()(images)
    for task in TASKS:
        for a, b in zip(own[task], expected[task], strict=True):
            assert same(a, b, row)


def test_every_trainable_soon_gets_a_gradient(row, model):
    optimizer = adam(model)
    for _ in range(row.steps - 1):
        step(model, optimizer)
    step(model)
    # biases before batch normalisation have none, whatever the method
    without = {
        n.removeprefix("backbone.")
        for n, p in model.named_parameters()
        if p.requires_grad
        and not (n.startswith("heads") and "linears" in n and n.endswith("bias"))
        and (p.grad is None or not p.grad.abs().max() > 0)
    }
    assert without == row.idle


def test_frozen_parameters_do_not_move(model):
    before = {n: p.clone() for n, p in scatter(model).named_parameters()}
    # an optimizer over all parameters moves those with a gradient
    step(model, torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1))
    for name, parameter in model.named_parameters():
        assert torch.equal(before[name], parameter) != parameter.requires_grad, name


def test_passes_through_the_encoder(row, model, on):
    assert model.backbone.peft.per_task_forward == row.per_task
    calls = dict(patch_embed=0, last=0)

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    model.backbone.get_submodule(on.patch_embed).register_forward_hook(count("patch_embed"))
    (last,) = model.backbone.block_specs[-1].layers["norm2"]
    model.backbone.get_submodule(last).register_forward_hook(count("last"))
    passes = len(TASKS) if row.per_task else 1
    with torch.no_grad():  # in training, passes may be joined in one batch
        model(torch.randn(1, 3, 32, 32), mode="tensor")
        # layers before the first difference between tasks run once
        assert calls == dict(last=passes, patch_embed=passes if row.from_the_start else 1)
        model(torch.randn(1, 3, 32, 32), mode="tensor", tasks=["normals"])
    assert calls["last"] == passes + 1


def test_tasks_do_not_depend_on_other_requested_tasks(row, model):
    scatter(model).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        together, alone = model.backbone(images), model.backbone(images, ["normals"])
    for a, b in zip(together["normals"], alone["normals"], strict=True):
        assert same(a, b, row)


def test_round_trip_through_a_checkpoint(row, model, on, tmp_path):
    step(model, adam(model))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    other = build_model(row.peft, on=on)
    other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    images = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        expected = model.eval()(images, mode="tensor")
        for task, values in other.eval()(images, mode="tensor").items():
            assert torch.equal(values, expected[task])


def test_activation_checkpointing_changes_nothing(row, model, monkeypatch):
    # runs tasks one by one: a joint batch may round differently
    encoder = scatter(model).backbone.train()
    monkeypatch.setattr(encoder, "batch_tasks", False)
    images = torch.randn(2, 3, 40, 32)
    results = []
    for recompute in (False, True):
        encoder.with_cp = recompute
        encoder.zero_grad()
        features = encoder(images)
        # random weights, so that norms and mixed-up tasks are visible
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (level * torch.randn(level.shape, generator=generator)).sum()
            for levels in features.values()
            for level in levels
        )
        if loss.requires_grad:
            loss.backward()
        gradients = {n: p.grad for n, p in encoder.named_parameters() if p.requires_grad}
        results.append((features, gradients))
    (features, gradients), (again, gradients_again) = results
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(features[task], again[task], strict=True))
    for name, gradient in gradients.items():
        assert (gradient.abs().max() > 0) != (name in row.idle), name
        assert torch.equal(gradient, gradients_again[name]), name


def test_dropout_next_to_trainable_parameters_only_acts_in_training():
    for method in (
        dict(type="LoRA", dropout=0.5),
        dict(type="LoRA", dropout=0.5, train_norm=True),
        dict(type="MTLoRA", rank=2, dropout=0.5),
    ):
        per_task = [dict(type="PerTask", method=method)] if method["type"] == "LoRA" else []
        for config in (method, *per_task):
            encoder = scatter(build_model(config)).backbone
            images = torch.randn(1, 3, 32, 32)
            with torch.no_grad():
                first, second = (encoder.train()(images)["semseg"] for _ in range(2))
                assert not torch.equal(first[3], second[3])
                first, second = (encoder.eval()(images)["semseg"] for _ in range(2))
                assert torch.equal(first[3], second[3])


def test_a_copy_of_the_model_is_independent(model):
    """A deep copy, as made by EMA."""
    scatter(model).eval()
    other = copy.deepcopy(model)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model.backbone(images)
        for parameter in model.parameters():
            parameter.zero_()  # the copy must not use the original
        for task, levels in other.backbone(images).items():
            assert all(torch.equal(a, b) for a, b in zip(levels, expected[task], strict=True))


@pytest.mark.parametrize("several", [False, True], ids=["one", "all"])
def test_merging_keeps_the_function(row, model, on, several):
    """Also of one task of several; nothing remains of what is linear."""
    tasks = list(TASKS) if several else ["normals"]
    encoder = scatter(model, 0.3).double().eval().backbone
    merged, images = copy.deepcopy(encoder), torch.randn(1, 3, 40, 32, dtype=torch.float64)
    complete = merged.merge_method(tasks)
    method = row.peft.get("method", row.peft)["type"]
    assert complete == (method in LINEAR and not (several and row.per_task))
    assert complete == (merged.state_dict().keys() == on.keys)
    with torch.no_grad():
        expected, given = encoder(images, tasks), merged(images)
        assert given.keys() == set(tasks)
        for task in tasks:
            for a, b in zip(given[task], expected[task], strict=True):
                assert (a - b).abs().max() <= 1e-10 * b.abs().max()
    if not several:
        with pytest.raises(InputError, match="unknown task"):
            merged(images, ["semseg"])


def test_half_precision_trains(row, model):
    """Under autocast, as with `--amp`, all gradients exist and are near those of float32."""
    scatter(model).train()
    images, gradients = torch.randn(2, 3, 32, 32), []
    for enabled in (False, True):
        model.zero_grad()
        torch.manual_seed(5)  # for the heads' dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(images, mode="tensor")
        sum(values.float().square().mean() for values in logits.values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    own = [torch.cat([g.flatten() for n, g in part.items() if n.startswith("backbone.")])
           for part in gradients if row.trains]  # fmt: skip
    assert all(gradient is not None for gradient in gradients[1].values())
    if row.trains:
        assert torch.cosine_similarity(*own, dim=0) > 0.9


def test_a_checkpoint_without_the_frozen_weights(row, model, on, tmp_path):
    """They come from the declared file; the checkpoint adds the trained parameters."""
    scatter(model).eval()
    encoder = {k: v for k, v in model.backbone.state_dict().items()
               if k not in model.backbone.added_keys}  # fmt: skip
    torch.save(encoder, tmp_path / "pretrained.pth")
    frozen = {f"backbone.{n}" for n, p in model.backbone.named_parameters() if not p.requires_grad}
    state = {k: v.clone() for k, v in model.state_dict().items() if k not in frozen}
    other = build_model(row.peft, on=on, pretrained=str(tmp_path / "pretrained.pth"))
    load_model(other, dict(state_dict=state), "the file", {})
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(images, mode="tensor")
        for task, values in other.eval()(images, mode="tensor").items():
            assert torch.equal(values, expected[task])


@pytest.mark.skipif(not has("2.6"), reason="PyTorch before 2.6 cannot compile the loop")
@pytest.mark.parametrize("case", _COMPILED)
def test_the_backbone_compiles_without_graph_breaks(model):
    """Forward and backward pass."""
    torch.compiler.reset()  # the compiler gives up on a function after eight versions
    encoder, results = scatter(model).backbone.train(), []
    images = torch.randn(1, 3, 32, 32)
    for run in (encoder, torch.compile(encoder, backend="aot_eager", fullgraph=True)):
        encoder.zero_grad()
        features = [level for levels in run(images).values() for level in levels]
        sum(level.sin().sum() for level in features).backward()
        gradients = [p.grad for p in encoder.parameters() if p.requires_grad]
        results.append(features + gradients)
    for expected, given in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())  # sums of large terms round
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5 * scale)
