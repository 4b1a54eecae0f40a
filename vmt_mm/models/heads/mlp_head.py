"""The All-MLP head, factored.

SegFormer: https://arxiv.org/abs/2105.15203, section 3.2, without norm or activation per scale.
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
class MLPHead(BaseModule):
    """Per-scale Linear, upsampling to 1/4, concatenation, 1x1, BN, ReLU, dropout, 1x1.

    Everything before BN is linear: the fusion's columns are multiplied into each scale's Linear,
    which is exactly the same function of the same parameters.

    Args:
        in_channels: C_j of the feature maps.
        out_channels: channels of the output.
        channels: D, the head's width.
        dropout_ratio: of whole channels, before the last layer.
        norm_cfg: norm layer.
        init_cfg: see ``mmengine.model.BaseModule``.
    """

    #: Takes maps on another grid than their own, see ``LazyResize``.
    accepts_lazy = True

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 256,
        dropout_ratio: float = 0.1,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.linears = nn.ModuleList(nn.Linear(c, channels) for c in in_channels)
        self.fuse = nn.Conv2d(len(in_channels) * channels, channels, 1, bias=False)
        self.norm = build_norm_layer(norm_cfg or dict(type="BN"), channels)[1]
        self.dropout = nn.Dropout2d(dropout_ratio)
        self.predict = nn.Conv2d(channels, out_channels, 1)

    def forward(self, features: Sequence[Tensor | LazyResize]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        columns = self.fuse.weight.flatten(1).chunk(len(self.linears), dim=1)  # each (D, D)
        weights = [f @ linear.weight for f, linear in zip(columns, self.linears, strict=True)]
        # upsampling leaves constants alone, so the biases of all scales add up to one
        bias = sum(f @ linear.bias for f, linear in zip(columns, self.linears, strict=True))
        x = fuse_pyramid(features, weights, bias)
        return self.predict(self.dropout(F.relu(self.norm(x), inplace=True)))
