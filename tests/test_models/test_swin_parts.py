"""The rewritten parts of Swin equal mmseg's, in values and gradients."""

import shutil

import pytest
import torch
from mmseg.models.backbones.swin import ShiftWindowMSA
from mmseg.models.utils.embed import PatchMerging
from torch import nn

from vmt_mm.models.backbones.swin import MultiTaskSwin, arrange
from vmt_mm.models.backbones.swin import shifted_window_attention as attend
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
    expected, out = attn(x, size), attend(attn, x, size)
    torch.testing.assert_close(out, expected)
    for own, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(own, other)


def test_dropout_of_scores_only_acts_in_training():
    attn = random_weights(ShiftWindowMSA(24, 3, 7, 3, attn_drop_rate=0.5))
    x = torch.randn(1, 196, 24, dtype=torch.double)
    with torch.no_grad():
        assert not torch.equal(attend(attn, x, (14, 14)), attend(attn, x, (14, 14)))
        torch.testing.assert_close(attend(attn.eval(), x, (14, 14)), attn(x, (14, 14)))


@pytest.mark.parametrize("size", [(8, 6), (5, 6), (6, 5), (1, 3)])
def test_merging_equals_mmsegs(size):
    merging = random_weights(PatchMerging(4, 8))
    x = torch.randn(2, size[0] * size[1], 4, dtype=torch.double, requires_grad=True)
    expected, _ = merging(x, size)
    out = MultiTaskSwin.merge_patches(None, merging, size, x)
    torch.testing.assert_close(out, expected)
    inputs = [x, *merging.parameters()]
    for own, other in zip(gradients(out, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(own, other)


def test_windows_with_the_same_mask_are_adjacent():
    windows = arrange(2, 21, 14, 7, 3, torch.device("cpu"))
    assert windows.sizes == (4, 4, 2, 2)  # two images; windows: 2 x 1 inside, right, bottom, corner
    assert [mask is None for mask in windows.masks] == [True, False, False, False]
    assert torch.equal(windows.order[windows.inverse], torch.arange(2 * 21 * 14))


@pytest.mark.skipif(not has("2.6"), reason="PyTorch before 2.6 cannot compile the loop")
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a compiler for the CPU")
@pytest.mark.slow
def test_attention_compiles_to_machine_code():
    attn = random_weights(ShiftWindowMSA(24, 3, 7, 3)).float()
    x = torch.randn(1, 64, 24)

    def run(x):
        return attend(attn, x, (8, 8))

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(run, fullgraph=True)(x), run(x))
