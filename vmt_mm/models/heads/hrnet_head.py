"""The HRNet-style head, factored.

HRNetV2: https://arxiv.org/abs/1908.07919, its representation head for dense prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from vmt_mm.models.heads.fuse import fuse_pyramid
from vmt_mm.models.lazy_resize import LazyResize
from vmt_mm.registry import MODELS


@MODELS.register_module()
class HRNetHead(BaseModule):
    """Upsampling to 1/4, concatenation, 1x1 of the same width, BN, ReLU, 1x1.

    The first 1x1 is applied to each scale at its own resolution.

    Args:
        in_channels: C_j of the feature maps.
        out_channels: channels of the output.
        norm_cfg: norm layer.
        init_cfg: see ``mmengine.model.BaseModule``.
    """

    #: Takes maps on another grid than their own, see ``LazyResize``.
    accepts_lazy = True

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels = tuple(in_channels)
        width = sum(in_channels)
        self.fuse = nn.Conv2d(width, width, 1)
        self.norm = build_norm_layer(norm_cfg or dict(type="BN"), width)[1]
        self.predict = nn.Conv2d(width, out_channels, 1)

    def forward(self, features: Sequence[Tensor | LazyResize]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        weights = self.fuse.weight.flatten(1).split(self.in_channels, dim=1)
        x = fuse_pyramid(features, weights, self.fuse.bias)
        return self.predict(F.relu(self.norm(x), inplace=True))
