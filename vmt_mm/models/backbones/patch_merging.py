"""Swin's patch merging on mmseg's parameters, by one copy instead of an unfolding.

Letters: B images, L = H W tokens, d channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.utils.compat import is_exporting


def halves(merging: nn.Module) -> bool:
    """Whether mmseg's ``PatchMerging`` takes 2 x 2 neighbours, as Swin's does."""
    sampler, padding = merging.sampler, merging.adap_padding
    sides = (sampler.kernel_size, sampler.stride, sampler.dilation, sampler.padding)
    expected = [(2, 2), (2, 2), (1, 1), (0, 0)]
    return getattr(padding, "padding", None) == "corner" and [tuple(s) for s in sides] == expected


def merge(
    merging: nn.Module, x: Tensor, input_size: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Put 2 x 2 neighbours together and project them.

    Args:
        merging: mmseg's ``PatchMerging``, whose layers are called.
        x: (B, L, d).
        input_size: H, W.

    Returns:
        (B, ceil(H / 2) ceil(W / 2), d') and the new H and W.
    """
    if not halves(merging):
        return merging(x, input_size)
    (height, width), channels = input_size, merging.in_channels
    x = x.reshape(x.shape[0], height, width, channels)
    grid = ((height + 1) // 2, (width + 1) // 2)
    if is_exporting() or height % 2 or width % 2:
        x = F.pad(x, (0, 0, 0, 2 * grid[1] - width, 0, 2 * grid[0] - height))
    x = x.reshape(x.shape[0], grid[0], 2, grid[1], 2, channels)
    # a token's channels in the order of the unfolding: neighbours within each channel
    x = x.permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], grid[0] * grid[1], 4 * channels)
    return merging.reduction(x if merging.norm is None else merging.norm(x)), grid
