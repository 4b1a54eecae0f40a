"""Fusion of a feature pyramid by one linear map, without the wide map that defines it."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from vmt_mm.models.lazy_resize import LazyResize, project


def fuse_pyramid(
    features: Sequence[Tensor | LazyResize], weights: Sequence[Tensor], bias: Tensor | None
) -> Tensor:
    """Upsample all maps to the first one's size, concatenate them, apply one 1x1 convolution.

    A 1x1 convolution acts on channels and bilinear upsampling on pixels, so they commute: each
    map is convolved with its own columns at its own resolution, upsampled and added. That is the
    same function with a fraction of the arithmetic, and no map of all channels at stride 4.

    Args:
        features: maps (B, C_j, H_j, W_j), finest first.
        weights: (D, C_j) for every map: the convolution's columns.
        bias: (D,) or None.

    Returns:
        (B, D, H_0, W_0).
    """
    first, *coarser = (
        project(x, w, bias if j == 0 else None)
        for j, (x, w) in enumerate(zip(features, weights, strict=True))
    )
    size = (first.shape[2], first.shape[3])  # a slice of the shape would be a constant to tracers
    for level in coarser:
        # in place: no backward pass needs the sum's former values
        first += F.interpolate(level, size=size, mode="bilinear", align_corners=False)
    return first
