"""Losses with an eager backward pass have the values and gradients of ordinary losses."""

import pytest
import torch
import torch.nn.functional as F
from methods import SWIN, VIT, build_model

from vmt_mm.models import multi_task_segmentor
from vmt_mm.models.eager_backward import eager_loss
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.compat import has

MAPS = [(2, 8, 8, 8), (2, 8, 4, 4)]


class Head(torch.nn.Module):
    """A head that uses both maps and counts its calls."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 8, 1, 1, generator=seeded(1)))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.calls = 0

    def loss(self, maps):
        self.calls += 1
        fine, coarse = (F.conv2d(x, self.weight, self.frozen) for x in maps)
        return (fine.tanh().mean() + coarse.square().mean()) * 3


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def make(requires_grad=True):
    maps = [torch.randn(shape, generator=seeded(0), requires_grad=requires_grad) for shape in MAPS]
    return Head(), maps


@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_values_and_gradients(factor):
    (head, maps), (other, other_maps) = make(), make()
    loss, expected = eager_loss(head, maps, head.loss), other.loss(other_maps)
    assert torch.equal(loss, expected)
    (loss * factor).backward()
    (expected * factor).backward()
    for own, usual in zip([*maps, head.weight], [*other_maps, other.weight], strict=True):
        torch.testing.assert_close(own.grad, usual.grad)
    assert head.unused.grad is None
    assert head.frozen.grad is None
    assert head.calls == 1


def test_nothing_of_the_head_is_kept_until_the_backward_pass():
    head, maps = make()
    loss = eager_loss(head, maps, head.loss)
    node = loss.grad_fn
    assert type(node).__name__ == "_EagerBackward"
    following = {type(other).__name__ for other, _ in node.next_functions if other}
    assert following == {"AccumulateGrad"}


CPU_FLOAT16 = pytest.mark.skipif(not has("2.4"), reason="no float16 autocast on CPUs before 2.4")


@pytest.mark.parametrize("how", ["no gradients", pytest.param("float16", marks=CPU_FLOAT16)])
def test_where_it_is_an_ordinary_loss(how):
    head, maps = make(how == "float16")
    if how == "no gradients":
        with torch.no_grad():
            assert eager_loss(head, maps, head.loss).grad_fn is None
        return
    with torch.autocast("cpu", dtype=torch.float16):
        assert type(eager_loss(head, maps, head.loss).grad_fn).__name__ != "_EagerBackward"


def test_a_head_on_maps_that_need_no_gradient():
    head, maps = make(requires_grad=False)
    eager_loss(head, maps, head.loss).backward()
    assert head.weight.grad is not None
    assert all(x.grad is None for x in maps)


def test_autocast_is_as_everywhere():
    (head, maps), (other, other_maps) = make(), make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, expected = eager_loss(head, maps, head.loss), other.loss(other_maps)
        again = eager_loss(head, maps, head.loss)  # autocast's cache has no graph of the first one
    assert torch.equal(loss, expected)
    assert torch.equal(loss, again)
    (loss + again).backward()
    (expected * 2).backward()
    torch.testing.assert_close(head.weight.grad, other.weight.grad, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("encoder", [SWIN, VIT])
@pytest.mark.parametrize(
    ("method", "head"),
    [("VMTAdapter", "MLPHead"), ("VMTAdapter", "DPTHead"), ("DecodersOnly", "MLPHead"),
     ("LoRA", "MLPHead")],
)  # fmt: skip
def test_a_training_step_is_that_of_ordinary_losses(encoder, method, head, monkeypatch):
    results = []
    for usual in (False, True):
        if usual:
            monkeypatch.setattr(
                multi_task_segmentor, "eager_loss", lambda head, maps, loss: loss(maps)
            )
        torch.manual_seed(0)
        model = build_model(dict(type=method), on=encoder, head=head).train()
        for p in model.parameters():  # W_up starts at zero, which would hide errors
            if p.requires_grad:
                torch.nn.init.normal_(p, std=0.2)
        images, samples = torch.randn(2, 3, 64, 48), [MultiTaskDataSample() for _ in range(2)]
        for sample in model.eval()(images, samples, mode="predict"):
            for task in model.tasks:
                sample.set_label(task, sample.prediction(task))
        model.train()
        torch.manual_seed(1)
        losses = model(images, samples, mode="loss")
        sum(losses.values()).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((losses, grads))
    (losses, grads), (usual_losses, usual_grads) = results
    assert grads.keys() == usual_grads.keys()
    assert all(torch.equal(losses[name], usual_losses[name]) for name in losses)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, usual_grads[name], msg=name)


@pytest.mark.parametrize("encoder", [SWIN, VIT])
def test_no_graph_below_the_first_thing_that_trains(encoder):
    images = torch.randn(1, 3, 64, 64)
    heads_alone = build_model(dict(type="DecodersOnly"), on=encoder).train()
    features = heads_alone.backbone(images)
    assert not any(level.requires_grad for levels in features.values() for level in levels)
    model = build_model(dict(type="VMTAdapter"), on=encoder).train()
    model.backbone.get_submodule(encoder.patch_embed).register_forward_hook(
        lambda module, args, out: seen.append(out[0].requires_grad)
    )
    seen = []
    assert all(level.requires_grad for level in model.backbone(images)["semseg"])
    assert seen == [False]
