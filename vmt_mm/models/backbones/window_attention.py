"""Shifted-window attention on mmseg's parameters, without mmseg's copies and masks.

Swin: https://arxiv.org/abs/2103.14030, section 3.2. Letters: B images, L = H W tokens, d channels,
h heads, n windows of an image, N tokens of a window.

mmseg rolls, cuts into windows and builds the shift's masks at every call, and keeps the scores of
all windows. Here one gather rolls and cuts; windows that have the same mask lie side by side, so
that each of the four masks that there are is one (N, N) matrix; and PyTorch's fused attention keeps
no scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmseg.models.backbones.swin import ShiftWindowMSA, WindowMSA
from torch import Tensor, nn

from vmt_mm.utils.compat import is_compiling

#: What mmseg adds to the score of two tokens that the shift brought together.
_APART = -100.0


@dataclass(frozen=True)
class Windows:
    """How the tokens of B maps fall into windows; those that have the same mask lie together.

    Attributes:
        padded: height and width of a map, multiples of the window.
        order: (B n N,) row, among those of the padded maps, of every token in its window.
        inverse: (B n N,) place among the windows of every row of the padded maps.
        kept: (B H W,) the part of ``inverse`` that is no padding.
        sizes: windows in each group.
        masks: (N, N) of each group; None where nothing is apart.
    """

    padded: tuple[int, int]
    order: Tensor
    inverse: Tensor
    kept: Tensor
    sizes: tuple[int, ...]
    masks: tuple[Tensor | None, ...]


@lru_cache(maxsize=128)
def arrange(
    batch: int, height: int, width: int, side: int, shift: int, device: torch.device
) -> Windows:
    """Cut B maps of height x width tokens, rolled by ``shift``, into windows of side x side."""
    rows, columns = (-(-size // side) * side for size in (height, width))
    rolled = torch.arange(batch * rows * columns, device=device).view(batch, rows, columns)
    if shift:
        rolled = rolled.roll((-shift, -shift), (1, 2))
    cut = rolled.view(batch, rows // side, side, columns // side, side).transpose(2, 3)
    if shift:  # what was rolled in from the other border lies in the last row and column
        groups = [cut[:, :-1, :-1], cut[:, :-1, -1:], cut[:, -1:, :-1], cut[:, -1:, -1:]]
        masks = _masks(side, shift, device)
    else:
        groups, masks = [cut], [None]
    filled = [(group, mask) for group, mask in zip(groups, masks, strict=True) if group.numel()]
    order = torch.cat([group.flatten() for group, _ in filled])
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=device)
    kept = inverse.view(batch, rows, columns)[:, :height, :width].flatten()
    sizes = tuple(group.numel() // side**2 for group, _ in filled)
    masks = tuple(mask for _, mask in filled)
    return Windows((rows, columns), order, inverse, kept, sizes, masks)


def _masks(side: int, shift: int, device: torch.device) -> list[Tensor | None]:
    """Masks (N, N) of windows within, in the last column, in the last row, and in both."""
    # whole numbers, since inductor cannot compile a comparison of truth values (PyTorch 2.12)
    beyond = (torch.arange(side, device=device) >= side - shift).long()
    row, column = (axis.flatten() for axis in torch.meshgrid(beyond, beyond, indexing="ij"))
    by_row, by_column = (part[:, None] != part for part in (row, column))
    return [None, *(_APART * apart.float() for apart in (by_column, by_row, by_row | by_column))]


class _Gather(torch.autograd.Function):
    """Rows in another order; the backward pass is a gather again and not an addition."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, index: Tensor, inverse: Tensor
    ) -> Tensor:
        """(R, d) to (len(index), d); where ``index`` leaves none out, ``inverse`` undoes it."""
        ctx.save_for_backward(index, inverse)
        ctx.rows = len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor
    ) -> tuple[Tensor, None, None]:
        """The gradient of every row; 0 for those that were left out."""
        index, inverse = ctx.saved_tensors
        if len(index) == ctx.rows:
            return grad.index_select(0, inverse), None, None
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, index, grad), None, None


class BiasCache:
    """The bias of relative positions of frozen tables, computed once.

    A table that trains, or that takes another's place for a pass, is never kept. Its values are
    known to be the same as long as it is the same memory, of the same version.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, int, Tensor]] = {}

    def bias(self, key: int, attn: WindowMSA) -> Tensor:
        """(1, h, N, N)."""
        table = attn.relative_position_bias_table
        fixed = isinstance(table, nn.Parameter) and not table.requires_grad
        if not fixed or is_compiling() or table.is_inference():
            return _bias(attn)
        kept = self._kept.get(key)
        if kept and kept[0].data_ptr() == table.data_ptr() and kept[1] == table._version:
            return kept[2]
        with torch.no_grad():
            bias = _bias(attn)
        # the table's memory is held, so that no other one can get its address
        self._kept[key] = table.detach(), table._version, bias
        return bias

    def __deepcopy__(self, memo: dict) -> BiasCache:
        """A copy of the encoder starts with none."""
        return BiasCache()

    def __reduce__(self) -> tuple:
        """Nothing of it is saved."""
        return BiasCache, ()


def _bias(attn: WindowMSA) -> Tensor:
    """(1, h, N, N)."""
    tokens = attn.window_size[0] * attn.window_size[1]
    values = attn.relative_position_bias_table[attn.relative_position_index.view(-1)]
    return values.view(1, tokens, tokens, -1).permute(0, 3, 1, 2).contiguous()


def attend(attn: ShiftWindowMSA, x: Tensor, hw_shape: tuple[int, int], bias: Tensor) -> Tensor:
    """What mmseg's ``ShiftWindowMSA`` computes.

    Args:
        attn: whose layers are called.
        x: (B, L, d).
        hw_shape: H, W.
        bias: of relative positions, (1, h, N, N).

    Returns:
        (B, L, d).
    """
    (height, width), inner = hw_shape, attn.w_msa
    batch, _, channels = x.shape
    compiling = is_compiling()  # what is traced cannot be looked up
    place = arrange.__wrapped__ if compiling else arrange
    windows = place(batch, height, width, attn.window_size, attn.shift_size, x.device)
    below, right = windows.padded[0] - height, windows.padded[1] - width
    if below or right:  # the padding takes part in attention, as in mmseg
        x = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, right, 0, below))
    x = _Gather.apply(x.reshape(-1, channels), windows.order, windows.inverse)
    x = _attend_within(inner, x.view(-1, bias.shape[-1], channels), bias, windows)
    x = inner.proj_drop(inner.proj(x)).view(-1, channels)
    x = _Gather.apply(x, windows.kept, windows.order)
    return attn.drop(x.view(batch, height * width, channels))


def _attend_within(attn: WindowMSA, x: Tensor, bias: Tensor, windows: Windows) -> Tensor:
    """Attention within every window, (B n, N, d) to (B n, N, d), before the last projection."""
    count, tokens, channels = x.shape
    qkv = attn.qkv(x).view(count, tokens, 3, attn.num_heads, -1)
    dropout = attn.attn_drop.p if attn.attn_drop.training else 0.0
    outputs = []
    for part, mask in zip(qkv.split(windows.sizes), windows.masks, strict=True):
        query, key, value = part.permute(2, 0, 3, 1, 4)
        scores = (bias if mask is None else bias + mask).to(query.dtype)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=scores, dropout_p=dropout, scale=attn.scale
        )
        outputs.append(out.transpose(1, 2).reshape(-1, tokens, channels))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
