"""Heads train on cached features exactly as on features that are computed every time."""

import copy

import pytest
import torch
from methods import SWIN, TASKS, VIT, build_model

from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.structures import MultiTaskDataSample

DECODERS = dict(type="DecodersOnly")


def keeping(limit=1e9, on=SWIN, peft=DECODERS):
    return MultiTaskSegmentor(
        tasks=TASKS,
        backbone=dict(allow_random_backbone=True, peft=peft, **on.config),
        head=dict(type="MLPHead", channels=8),
        feature_cache_bytes=limit,
    )


def samples(images):
    generator = torch.Generator().manual_seed(5)
    made = []
    for image in images:
        sample = MultiTaskDataSample(metainfo=dict(img_shape=tuple(image.shape[1:])))
        size = image.shape[1:]
        sample.set_label("semseg", torch.randint(0, 4, (1, *size), generator=generator))
        sample.set_label("normals", torch.randn(3, *size, generator=generator))
        made.append(sample)
    return made


def losses_of(model, images):
    torch.manual_seed(0)
    model.zero_grad()
    losses = model.train()(images, samples(images), mode="loss")
    sum(losses.values()).backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def count_images(model):
    seen = []
    embed = model.backbone.patch_embed.projection
    embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("on", [SWIN, VIT], ids=["swin", "vit"])
def test_losses_and_gradients(on):
    usual = build_model(DECODERS, on=on)
    model = keeping(on=on)
    model.load_state_dict(usual.state_dict())
    seen = count_images(model)
    a, b, c = torch.randn(3, 3, 32, 32)
    for batch in ([a, b], [b, c], [c, a], [a, a]):
        images = torch.stack(batch)
        (own, gradients), (expected, others) = losses_of(model, images), losses_of(usual, images)
        assert own.keys() == expected.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(own[name], loss)
        assert gradients.keys() == others.keys()
        for name, gradient in others.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-5)
    assert seen == [2, 1]  # once per image
    assert set(model.state_dict()) == set(usual.state_dict())


def test_changes_of_the_features_are_noticed():
    model, images = keeping(), torch.randn(1, 3, 32, 32)
    seen = count_images(model)
    losses_of(model, images)
    losses_of(model, images + 1e-3)
    losses_of(model, images.view(1, 3, 16, 64))
    with torch.autocast("cpu", torch.bfloat16):
        losses_of(model, images)
    model.load_state_dict(
        {k: v * 2 for k, v in model.state_dict().items() if "index" not in k}, False
    )
    losses_of(model, images)
    assert seen == [1] * 5
    losses_of(model, images)
    assert len(seen) == 5
    losses_of(copy.deepcopy(model), images)
    size = model.feature_cache.size
    losses_of(model, torch.randn(1, 3, 32, 32))
    assert model.feature_cache.size == 2 * size  # for these weights only


def test_the_limit():
    model = keeping(limit=1)
    seen = count_images(model)
    for _ in range(2):
        losses_of(model, torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert seen == [1, 1]
    assert model.feature_cache.size == 0
    model = keeping()
    losses_of(model, torch.randn(1, 3, 32, 32))
    size = model.feature_cache.size
    model = keeping(limit=2.5 * size)
    losses_of(model, torch.randn(4, 3, 32, 32))
    assert model.feature_cache.size == 2 * size


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(limit=0), "positive number, got 0"),
        (dict(limit="all"), "got 'all'"),
        (dict(peft=dict(type="BitFit")), "but the backbone has BitFit"),
        (dict(peft=dict(type="VMTAdapter")), "but the backbone has VMTAdapter"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(InputError, match=message):
        keeping(**settings)
