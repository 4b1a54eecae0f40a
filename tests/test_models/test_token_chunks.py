"""Tokens that are computed in chunks have the values and gradients of the whole."""

import pytest
import torch
from methods import SWIN, build_model
from torch import nn

from vmt_mm.models.backbones import seam, token_chunks
from vmt_mm.models.backbones.token_chunks import over_tokens

WIDTH = 24


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, WIDTH), nn.GELU(), nn.Linear(WIDTH, 5))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(token_chunks, "_MINIMUM", 1)
    monkeypatch.setattr(token_chunks, "_CHUNK", 4 * WIDTH)


@pytest.mark.parametrize("tokens", [1, 3, 4, 9])
def test_values_and_gradients(tokens):
    run, x = layers().double(), torch.randn(2, tokens, 6, dtype=torch.double, requires_grad=True)
    seen = []
    out, whole = over_tokens(lambda part: seen.append(len(part)) or run(part), x, WIDTH), run(x)
    assert sum(seen) == 2 * tokens
    assert max(seen) <= 4
    torch.testing.assert_close(out, whole)
    inputs, direction = [x, *run.parameters()], torch.randn_like(whole)
    for own, other in zip(
        torch.autograd.grad(out, inputs, direction),
        torch.autograd.grad(whole, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(own, other)
    with torch.no_grad():
        torch.testing.assert_close(over_tokens(run, x, WIDTH), whole)


def test_autocasts_result_keeps_its_type():
    run, x = layers(), torch.randn(2, 9, 6)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context, torch.autocast("cpu", torch.bfloat16):
            out = over_tokens(run, x, WIDTH)
            assert out.dtype == run(x).dtype == torch.bfloat16


def test_few_tokens_are_run_at_once(monkeypatch):
    monkeypatch.setattr(token_chunks, "_MINIMUM", 18 * WIDTH + 1)
    seen = []
    over_tokens(lambda part: seen.append(part.shape) or part, torch.randn(2, 9, 6), WIDTH)
    assert seen == [(2, 9, 6)]


def test_an_mlp_that_trains_decides_for_whole_images(monkeypatch):
    calls = []
    monkeypatch.setattr(seam, "over_tokens", lambda run, x, width: calls.append(width) or run(x))
    model = build_model(dict(type="FullFineTuning"))
    images = torch.randn(1, 3, 32, 32)
    model.train().backbone(images)
    assert calls == []
    model.eval().backbone(images)
    assert calls == [4 * width for width in SWIN.widths]
