"""Swin's parts, computed in another way, are mmseg's: values and gradients."""

import copy
import shutil

import pytest
import torch
from mmseg.models.backbones.swin import ShiftWindowMSA
from mmseg.models.utils.embed import PatchMerging
from torch import nn

from vmt_mm.models.backbones.patch_merging import merge
from vmt_mm.models.backbones.window_attention import BiasCache, arrange, attend
from vmt_mm.registry import MODELS
from vmt_mm.utils.compat import has

#: Sizes with and without padding, smaller than a window, and with all kinds of windows.
SIZES = [(14, 21), (7, 7), (5, 6), (16, 9), (3, 30)]


def random_weights(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def gradients(output, inputs, seed=0):
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).double()
    return torch.autograd.grad(output, inputs, direction)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_attention_equals_mmsegs(size, shift, frozen):
    attn = random_weights(ShiftWindowMSA(24, 3, 7, shift)).requires_grad_(not frozen)
    x = torch.randn(3, size[0] * size[1], 24, dtype=torch.double, requires_grad=True)
    inputs = [x, *(p for p in attn.parameters() if p.requires_grad)]
    expected, out = attn(x, size), attend(attn, x, size, BiasCache().bias(0, attn.w_msa))
    torch.testing.assert_close(out, expected)
    for own, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(own, other)


def test_dropout_of_scores_acts_in_training_alone():
    attn = random_weights(ShiftWindowMSA(24, 3, 7, 3, attn_drop_rate=0.5))
    x, bias = torch.randn(1, 196, 24, dtype=torch.double), BiasCache().bias(0, attn.w_msa)
    with torch.no_grad():
        assert not torch.equal(attend(attn, x, (14, 14), bias), attend(attn, x, (14, 14), bias))
        torch.testing.assert_close(attend(attn.eval(), x, (14, 14), bias), attn(x, (14, 14)))


@pytest.mark.parametrize("size", [(8, 6), (5, 6), (6, 5), (1, 3)])
def test_merging_equals_mmsegs(size):
    merging = random_weights(PatchMerging(4, 8))
    x = torch.randn(2, size[0] * size[1], 4, dtype=torch.double, requires_grad=True)
    (expected, grid), (out, own_grid) = merging(x, size), merge(merging, x, size)
    assert own_grid == grid
    torch.testing.assert_close(out, expected)
    inputs = [x, *merging.parameters()]
    for own, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(own, other)


def test_a_merging_of_another_kind_stays_mmsegs():
    merging = random_weights(PatchMerging(4, 8, kernel_size=3, stride=2))
    x = torch.randn(1, 35, 4, dtype=torch.double)
    torch.testing.assert_close(merge(merging, x, (5, 7))[0], merging(x, (5, 7))[0])


def test_windows_of_one_mask_lie_together():
    windows = arrange(2, 21, 14, 7, 3, torch.device("cpu"))
    assert windows.sizes == (4, 4, 2, 2)  # two images; 2 x 1 within, right, below, corner
    assert [mask is None for mask in windows.masks] == [True, False, False, False]
    assert torch.equal(windows.order[windows.inverse], torch.arange(2 * 21 * 14))


def build_encoder():
    cfg = dict(type="MultiTaskSwin", arch="nano", tasks=["a"], allow_random_backbone=True)
    encoder = MODELS.build({**cfg, "peft": dict(type="VMTAdapter", ratio=1)})
    encoder.init_weights()
    return encoder


@pytest.mark.parametrize("how", ["in place", "load_state_dict", "other memory"])
def test_a_kept_bias_follows_its_table(how):
    encoder, images = build_encoder().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        encoder(images)
        for name, table in list(encoder.named_parameters()):
            if "relative_position_bias_table" not in name:
                continue
            values = torch.randn_like(table)
            if how == "in place":
                table.copy_(values)
            elif how == "load_state_dict":
                encoder.load_state_dict({name: values}, strict=False)
            else:
                table.data = values
        fresh = build_encoder().eval()
        fresh.load_state_dict(encoder.state_dict())
        for own, other in zip(encoder(images)["a"], fresh(images)["a"], strict=True):
            assert torch.equal(own, other)


def test_only_the_bias_of_a_frozen_table_is_kept():
    attn, cache = ShiftWindowMSA(24, 3, 7, 0).w_msa, BiasCache()
    assert cache.bias(0, attn) is not cache.bias(0, attn)  # it trains
    attn.requires_grad_(False)
    assert cache.bias(0, attn) is cache.bias(0, attn)
    other = torch.zeros_like(attn.relative_position_bias_table)
    tables = {"relative_position_bias_table": other}
    attn.forward = lambda: cache.bias(0, attn)
    assert not torch.func.functional_call(attn, tables, ()).any()  # one that stands in for a pass


def test_a_copy_of_the_encoder_keeps_nothing_of_the_others_bias():
    encoder = build_encoder()
    encoder(torch.randn(1, 3, 32, 32))
    assert encoder._biases._kept
    assert not copy.deepcopy(encoder)._biases._kept


@pytest.mark.skipif(not has("2.6"), reason="PyTorch before 2.6 cannot compile the loop")
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a compiler for the CPU")
def test_attention_compiles_to_machine_code():
    attn = random_weights(ShiftWindowMSA(24, 3, 7, 3)).float()
    x = torch.randn(1, 64, 24)

    def run(x):
        return attend(attn, x, (8, 8), BiasCache().bias(0, attn.w_msa))

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True)(x), run(x))
