"""One row enrols a method in every test of the contract.

A row: config -> which names train (a predicate), whether the start equals the frozen encoder.
"""

import pytest
import torch

from vmt_mm import peft
from vmt_mm.registry import MODELS, PEFT_METHODS

TASKS = dict(
    semseg=dict(type="Segmentation", num_classes=4),
    normals=dict(type="Normals"),
)
METHODS = {
    "VMTAdapter": (dict(ratio=4), lambda name: name.startswith("peft.")),
    "VMTAdapter-learnable": (
        dict(type="VMTAdapter", learnable_gate=True, down_bias=True),
        lambda name: name.startswith("peft."),
    ),
    "DecodersOnly": ({}, lambda name: False),
    "FullFineTuning": ({}, lambda name: True),
}


def build(method):
    options, _ = METHODS[method]
    model = MODELS.build(
        dict(
            type="MultiTaskSegmentor",
            tasks=TASKS,
            backbone=dict(
                type="MultiTaskSwin",
                arch="nano",
                allow_random_backbone=True,
                peft={"type": method, **options},
            ),
            head=dict(type="MLPHead", channels=8),
        )
    )
    model.backbone.init_weights()
    return model


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


def test_every_method_has_a_row():
    used = {options.get("type", name) for name, (options, _) in METHODS.items()}
    own = {n for n, c in PEFT_METHODS.module_dict.items() if c.__module__.startswith(peft.__name__)}
    assert used == own


@pytest.mark.parametrize("method", METHODS)
class TestContract:
    def test_trainable_set(self, method):
        model = build(method)
        trainable = {n for n, p in model.backbone.named_parameters() if p.requires_grad}
        expected = {n for n, _ in model.backbone.named_parameters() if METHODS[method][1](n)}
        assert trainable == expected
        assert all(p.requires_grad for p in model.heads.parameters())

    def test_start_equals_the_frozen_encoder(self, method):
        model = build(method)
        frozen = build("DecodersOnly")
        state = model.backbone.state_dict()
        frozen.backbone.load_state_dict(
            {k: v for k, v in state.items() if not k.startswith("peft.")}
        )
        images = torch.randn(1, 3, 48, 40)
        with torch.no_grad():
            own, expected = model.backbone.eval()(images), frozen.backbone.eval()(images)
        for task in TASKS:
            for a, b in zip(own[task], expected[task], strict=True):
                assert torch.equal(a, b)

    def test_every_trainable_gets_a_gradient_by_the_second_step(self, method):
        model = build(method)
        trainable = [p for p in model.parameters() if p.requires_grad]
        step(model, torch.optim.Adam(trainable, lr=1e-2))
        step(model)
        named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        # a bias before batch normalisation has none, whatever the method
        without = [
            n
            for n, p in named.items()
            if not (n.startswith("heads") and "linears" in n and n.endswith("bias"))
            and (p.grad is None or not p.grad.abs().max() > 0)
        ]
        assert without == []

    def test_frozen_parameters_do_not_move(self, method):
        model = build(method)
        before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        step(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2))
        after = dict(model.named_parameters())
        assert all(torch.equal(value, after[name]) for name, value in before.items())

    def test_one_pass_through_the_encoder(self, method):
        model = build(method)
        calls = []
        model.backbone.patch_embed.register_forward_hook(lambda *_: calls.append(1))
        model(torch.randn(1, 3, 32, 32), mode="tensor")
        assert len(calls) == 1

    def test_round_trip_through_a_checkpoint(self, method, tmp_path):
        model = build(method)
        step(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2))
        torch.save(model.state_dict(), tmp_path / "model.pth")
        other = build(method)
        other.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
        images = torch.randn(1, 3, 40, 48)
        with torch.no_grad():
            expected = model.eval()(images, mode="tensor")
            for task, values in other.eval()(images, mode="tensor").items():
                assert torch.equal(values, expected[task])
