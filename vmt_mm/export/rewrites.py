"""Forwards of an encoder's parts that hold for every batch and size once they are traced.

mmseg's Swin computes the batch from a quotient of sizes in floating point, asks for sizes in
branches, and fills the shifted windows' mask by slices: a tracer turns all of them into constants
of the example that it saw, and the exported model is wrong at other batches or sizes without an
error. These here are the same functions of the same parameters, with symbolic sizes throughout.

Letters: B images, H, W height and width of the token grid, L = H W tokens, d channels, s the
window's side, n heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import mmcv.cnn.bricks.transformer as mmcv_parts
import mmseg.models.utils.embed as mmseg_parts
import torch
import torch.nn.functional as F
from mmseg.models.backbones.swin import ShiftWindowMSA
from torch import Tensor, nn

from vmt_mm.peft.parameter_swap import ParameterSwap
from vmt_mm.utils.compat import take_first

Size = tuple[int, int]


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """Give the parts of ``model`` forwards that a tracer follows rightly; restore them at the end.

    Args:
        model: any model; parts of other kinds keep their own forward. To be in eval mode: the
            rewritten ones have no dropout.
    """
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch, "block_diag", _block_diagonal))
        for module in model.modules():
            rewrite = _find_rewrite(module)
            if rewrite is not None:
                name = "run" if isinstance(module, ParameterSwap) else "forward"
                setattr(module, name, partial(rewrite, module))
                stack.callback(delattr, module, name)
        yield


def _find_rewrite(module: nn.Module) -> Callable[..., Any] | None:
    if isinstance(module, ParameterSwap):
        return _run_substituted
    if isinstance(module, ShiftWindowMSA):
        return _window_attention
    if isinstance(module, (mmseg_parts.PatchEmbed, mmcv_parts.PatchEmbed)) and _tiles(module):
        return _embed
    return None


def _tiles(module: nn.Module) -> bool:
    """Whether an embedding's patches lie side by side."""
    layer = module.projection
    return _pads_corner(module) and tuple(layer.kernel_size) == tuple(layer.stride)


def _pads_corner(module: nn.Module) -> bool:
    """Whether the grid is filled up below and at the right; the libraries name it differently."""
    padding = getattr(module, "adap_padding", None) or getattr(module, "adaptive_padding", None)
    return getattr(padding, "padding", None) == "corner"


def _run_substituted(
    substitution: ParameterSwap,
    parameters: Mapping[str, Tensor],
    function: Callable[..., Any],
    *args: Any,
) -> Any:
    """What ``ParameterSwap.run`` does by ``functional_call``, which refuses to be traced."""
    with ExitStack() as stack:
        for key, value in parameters.items():
            owner, _, name = key.rpartition(".")
            places = substitution.encoder.get_submodule(owner)._parameters
            stack.callback(places.__setitem__, name, places[name])
            places[name] = value
        return function(*args)


def _block_diagonal(*blocks: Tensor) -> Tensor:
    """``torch.block_diag`` of matrices, which has no counterpart in ONNX."""
    width = sum(block.shape[1] for block in blocks)
    rows, left = [], 0
    for block in blocks:
        rows.append(F.pad(block, (left, width - left - block.shape[1])))
        left += block.shape[1]
    return torch.cat(rows)


def _pad_to(x: Tensor, multiple: Size) -> Tensor:
    """Pad (..., H, W) below and at the right to a multiple of (h, w) by zeros."""
    height, width = x.shape[-2], x.shape[-1]
    return F.pad(x, (0, _lacking(width, multiple[1]), 0, _lacking(height, multiple[0])))


def _lacking(length: int, multiple: int) -> int:
    """What a length lacks to a multiple; shape inference of ONNX knows no remainders."""
    return (length + multiple - 1) // multiple * multiple - length


def _embed(module: nn.Module, images: Tensor) -> tuple[Tensor, Size]:
    """(B, 3, H, W) -> tokens (B, L, d) and their grid."""
    x = module.projection(_pad_to(images, module.projection.stride))
    grid = (x.shape[2], x.shape[3])
    x = x.flatten(2).transpose(1, 2)
    return (x if module.norm is None else module.norm(x)), grid


def _window_attention(module: ShiftWindowMSA, query: Tensor, hw_shape: Size) -> Tensor:
    """Attention of (B, L, d) within windows, shifted or not."""
    side, shift = module.window_size, module.shift_size
    batch, _, channels = query.shape
    height, width = hw_shape
    x = query.reshape(batch, height, width, channels)
    x = F.pad(x, (0, 0, 0, _lacking(width, side), 0, _lacking(height, side)))
    rows, columns = (height + side - 1) // side, (width + side - 1) // side
    if shift:
        x = torch.roll(x, (-shift, -shift), dims=(1, 2))
    windows = x.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
    windows = windows.reshape(batch, rows * columns, side * side, channels)
    mask = _shift_mask(rows, columns, side, shift, query) if shift else None
    windows = _attend(module.w_msa, windows, mask)
    x = windows.reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
    x = x.reshape(batch, rows * side, columns * side, channels)
    if shift:
        x = torch.roll(x, (shift, shift), dims=(1, 2))
    x = take_first(take_first(x, 1, height), 2, width)
    return x.reshape(batch, height * width, channels)


def _attend(attention: nn.Module, windows: Tensor, mask: Tensor | None) -> Tensor:
    """Attention within windows (B, N, s s, d); ``mask`` (N, s s, s s) is added to its logits."""
    batch, number, tokens, channels = windows.shape
    heads = attention.num_heads
    qkv = attention.qkv(windows)
    qkv = qkv.reshape(batch, number, tokens, 3, heads, channels // heads)
    query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # (B, N, n, s s, d / n)
    table = attention.relative_position_bias_table[attention.relative_position_index.flatten()]
    bias = table.reshape(tokens, tokens, heads).permute(2, 0, 1)
    logits = (query * attention.scale) @ key.transpose(-2, -1) + bias
    if mask is not None:
        logits = logits + mask[:, None]
    x = (logits.softmax(dim=-1) @ value).transpose(2, 3)
    return attention.proj(x.reshape(batch, number, tokens, channels))


def _shift_mask(rows: int, columns: int, side: int, shift: int, like: Tensor) -> Tensor:
    """-100 between tokens of a window that the shift brought together, (rows columns, s s, s s)."""

    def regions(number: int) -> Tensor:
        """Each line's region before the shift, (windows, s): 0, 1 or 2."""
        length = number * side
        line = torch.arange(length, device=like.device)
        region = (line >= length - side).to(like.dtype) + (line >= length - shift).to(like.dtype)
        return region.reshape(number, side)

    vertical = regions(rows)[:, None, :, None] * 3
    region = (vertical + regions(columns)[None, :, None, :]).reshape(rows * columns, side * side)
    return (region[:, None] != region[:, :, None]).to(like.dtype) * -100.0
