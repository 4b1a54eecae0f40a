"""Shifted-window attention on mmseg's parameters, without mmseg's copies and masks.

Swin: https://arxiv.org/abs/2103.14030, section 3.2. Letters: B images, L = H W tokens, d channels,
h heads, n windows of an image, N tokens of a window.

One gather rolls and cuts; windows of the same mask lie side by side, so that each of the four masks
is one (N, N) matrix. In an exported model, where their number may be a symbol, all form one group.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vmt_mm.utils.compat import is_compiling, is_exporting, take_first

#: What mmseg adds to the score of two tokens that the shift brought together.
_APART = -100.0


class Windows(NamedTuple):
    """How the tokens of B maps fall into windows; windows of one mask form a group.

    ``order`` (B n N,) has each token's row in the maps, ``inverse`` each row's place in ``order``.
    Masks, one per group, are (N, N) or (B n, 1, N, N), None if nothing is apart.
    """

    order: Tensor
    inverse: Tensor
    sizes: tuple[int, ...]
    masks: tuple[Tensor | None, ...]


@lru_cache(maxsize=128)
def arrange(
    batch: int, height: int, width: int, side: int, shift: int, device: torch.device
) -> Windows:
    """Cut B maps of height x width tokens, rolled by ``shift``, into windows of side x side."""
    rows, columns = height // side, width // side
    places = torch.arange(batch * height * width, device=device)
    rolled = places.view(batch, height, width).roll((-shift, -shift), (1, 2))
    cut = rolled.view(batch, rows, side, columns, side).transpose(2, 3)
    groups: list[Tensor] = [cut]
    masks: list[Tensor | None] = [None]
    if shift:  # what was rolled in from the other border lies in the last row and column
        # whole numbers, since inductor cannot compile a comparison of truth values (PyTorch 2.12)
        beyond = (torch.arange(side, device=device) >= side - shift).long()
        row, column = (axis.flatten() for axis in torch.meshgrid(beyond, beyond, indexing="ij"))
        regions = (0 * row, column, row, 2 * row + column)
        apart = [_APART * (region[:, None] != region).float() for region in regions]
        if is_exporting():
            last = [(torch.arange(x, device=device) >= x - 1).long() for x in (rows, columns)]
            kind = (2 * last[0][:, None] + last[1]).flatten().repeat(batch)
            masks = [torch.stack(apart)[kind][:, None]]
        else:
            groups = [cut[:, :-1, :-1], cut[:, :-1, -1:], cut[:, -1:, :-1], cut[:, -1:, -1:]]
            masks = [None, *apart[1:]]
    order = torch.cat([group.flatten() for group in groups])
    inverse = torch.zeros_like(order).scatter(0, order, places)
    filled = [(g.numel() // side**2, m) for g, m in zip(groups, masks, strict=True) if g.numel()]
    return Windows(order, inverse, *zip(*filled, strict=True))


class _Permute(torch.autograd.Function):
    """Rows in another order; the backward pass is a gather too, and not an addition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """(R, d) to (R, d)."""
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """The gradient of every row."""
        return grad.index_select(0, *ctx.saved_tensors), None, None


def _permute(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return _Permute.apply(x, order, inverse) if x.requires_grad else x.index_select(0, order)


def pad_map(x: Tensor, high: int, wide: int) -> Tensor:
    """A map (B, H, W, d) with zeros below and at the right, (B, high, wide, d)."""
    below, right = high - x.shape[1], wide - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, below)) if is_exporting() or below or right else x


def attend(attn: Any, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """What mmseg's ``ShiftWindowMSA`` computes: (B, L, d) to (B, L, d), of a map H x W."""
    (height, width), inner, side = hw_shape, attn.w_msa, attn.window_size
    batch, _, channels = x.shape
    # not a remainder, of which ONNX's shape inference knows nothing
    high, wide = ((length + side - 1) // side * side for length in hw_shape)
    traced = is_compiling() or is_exporting()  # whose sizes cannot be looked up
    place: Any = arrange.__wrapped__ if traced else arrange
    windows = place(batch, high, wide, side, attn.shift_size, x.device)
    # the padding takes part, as in mmseg
    x = pad_map(x.reshape(batch, height, width, channels), high, wide)
    x = _permute(x.reshape(-1, channels), windows.order, windows.inverse)
    x = _attend_within(inner, x.view(-1, side * side, channels), windows)
    x = inner.proj_drop(inner.proj(x)).view(-1, channels)
    x = _permute(x, windows.inverse, windows.order).view(batch, high, wide, channels)
    x = take_first(take_first(x, 1, height), 2, width)
    return attn.drop(x.reshape(batch, height * width, channels))


def _attend_within(attn: Any, x: Tensor, windows: Windows) -> Tensor:
    """Attention within every window, (B n, N, d) to (B n, N, d), before the last projection."""
    count, tokens, channels = x.shape
    bias = attn.relative_position_bias_table[attn.relative_position_index.view(-1)]
    bias = bias.view(1, tokens, tokens, -1).permute(0, 3, 1, 2).contiguous()
    qkv = attn.qkv(x).view(count, tokens, 3, attn.num_heads, -1)
    parts = qkv.split(windows.sizes) if len(windows.sizes) > 1 else [qkv]
    dropout, outputs = attn.attn_drop.p if attn.attn_drop.training else 0.0, []
    for part, mask in zip(parts, windows.masks, strict=True):
        query, key, value = part.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (bias if mask is None else bias + mask).to(query.dtype)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=scores, dropout_p=dropout, scale=attn.scale
        )
        outputs.append(out.transpose(1, 2).reshape(-1, tokens, channels))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
