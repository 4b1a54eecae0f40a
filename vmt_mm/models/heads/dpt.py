"""DPT head on the four feature maps of this package's backbones."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmseg.models.decode_heads.dpt_head import PreActResidualConvUnit
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS
from vmt_mm.utils.feature_maps import Map, project


@MODELS.register_module()
class DPTHead(BaseModule):
    """DPT head: 1x1 and 3x3 conv per map, fusion with residual units from coarse to fine, logits.

    https://arxiv.org/abs/2103.13413, with mmseg's residual units: y + norm(conv(ReLU(norm(conv(
    ReLU(y))))). With l_j = conv3x3(conv1x1(map_j)) of ``channels`` channels, and units U and V::

        x_3 = V_3(l_3),  x_j = V_j(up(conv1x1(x_{j+1})) + U_j(l_j)) for j = 2, 1, 0
        logits = conv1x1(dropout(ReLU(norm(conv3x3(x_0)))))

    Maps (B, C_j, H_j, W_j), finest first, to logits (B, out_channels, H_0, W_0). Backbones have
    resampled the maps already, so nothing else is left of DPT's reassembly; the class token is not
    used. As 1x1 convolution and resampling commute, each 1x1 runs at the lower resolution, and the
    last fusion, which is not upsampled, needs none. ``norm_cfg`` None means batch normalisation.
    """

    #: The head accepts ``LazyResize`` maps.
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
        if not isinstance(channels, int) or channels < 1:
            raise InputError(f"DPTHead: `channels` must be at least 1, got {channels!r}")
        norm_cfg, act_cfg = norm_cfg or dict(type="BN"), dict(type="ReLU")

        def units(count: int) -> nn.ModuleList:
            made = (PreActResidualConvUnit(channels, act_cfg, norm_cfg) for _ in range(count))
            return nn.ModuleList(made)

        count = len(in_channels)
        self.projections = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in in_channels
        )
        # the coarsest map has nothing to be added to
        self.skip_units, self.fuse_units = units(count - 1), units(count)
        self.steps = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(count - 1))
        self.output = ConvModule(channels, channels, 3, padding=1, norm_cfg=norm_cfg)
        self.dropout = nn.Dropout2d(dropout_ratio)
        self.predict = nn.Conv2d(channels, out_channels, 1)

    def forward(self, maps: Sequence[Map]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        rows: list[Any] = list(zip(maps, self.projections, self.convs, strict=True))
        *finer, x = (conv(project(x, p.weight.flatten(1), p.bias)) for x, p, conv in rows)
        x = self.fuse_units[-1](x)
        for level in range(len(finer) - 1, -1, -1):
            own = finer[level]
            size = (own.shape[2], own.shape[3])  # a slice would be a constant to tracers
            x = F.interpolate(self.steps[level](x), size=size, mode="bilinear", align_corners=False)
            x = self.fuse_units[level](x + self.skip_units[level](own))
        return self.predict(self.dropout(self.output(x)))
