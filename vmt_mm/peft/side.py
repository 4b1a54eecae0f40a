"""VMT-Adapter's idea in a branch next to the backbone, which gets no gradient. Not published.

Notation: B images, H, W cells of a map, d channels of a stage, w = d / ratio those of the branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt_mm.peft.bottleneck import check_positive, hidden_width
from vmt_mm.peft.method import Backbone, PEFTMethod
from vmt_mm.registry import PEFT_METHODS
from vmt_mm.utils.compat import take_first
from vmt_mm.utils.feature_maps import (
    LazySum,
    Map,
    SimpleMap,
    resample_like,
    tensors_of,
    with_values,
)

#: Strides at which the branch also reads the image.
_FINE = (4, 8)


class Mixing(nn.Module):
    """z + PW(GELU(DW(PW(LN z)))) on cells (B, H, W, w); the depthwise DW has 2 w channels."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        sizes = (2 * width, 2 * width, kernel)
        self.depthwise = nn.Conv2d(*sizes, padding=kernel // 2, groups=2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, z: Tensor) -> Tensor:
        """(B, H, W, w) -> (B, H, W, w)."""
        inner = self.depthwise(_channels_first(self.inner(self.norm(z))))
        return z + self.outer(F.gelu(_channels_last(inner)))


class ImagePrior(nn.Module):
    """GELU(LN(conv)) with stride 2, three times: features of strides 4 and 8, of c channels."""

    def __init__(self, image_channels: int, channels: int) -> None:
        super().__init__()
        inputs = (image_channels, channels, channels)
        self.convs = nn.ModuleList(nn.Conv2d(c, channels, 3, stride=2, padding=1) for c in inputs)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in inputs)

    def forward(self, images: Tensor) -> Iterator[Tensor]:
        """Yield cells (B, ceil(H / s), ceil(W / s), c) for s = 4 and 8."""
        x = images
        for level, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            # contiguous: else, how a linear layer rounds depends on whether it is trained
            cells = F.gelu(norm(_channels_last(conv(x)).contiguous()))
            x = _channels_first(cells)
            if level:
                yield cells


class SideStage(nn.Module):
    """Layers of one stage, see :class:`SideVMT`; ``before`` and ``top`` are widths of others."""

    def __init__(
        self, channels: int, width: int, before: int | None, top: int, prior: int | None,
        tasks: Sequence[str],
    ) -> None:  # fmt: skip
        super().__init__()
        merges = before not in (None, width)
        self.merge = nn.Conv2d(before or 1, width, 2, stride=2) if merges else None
        self.norm = nn.LayerNorm(channels)
        self.down = nn.Linear(channels, width)
        self.gate_logit = nn.Parameter(torch.zeros(()))
        self.mixing = Mixing(width, 5)
        self.from_prior = self.from_top = self.fusion = None
        if prior is not None:
            self.from_prior = nn.Linear(prior, width)
            self.from_top = nn.Linear(top, width)
            self.fusion = Mixing(width, 3)
        self.up = nn.Linear(width, channels)
        self.alpha = nn.ParameterDict({t: nn.Parameter(torch.ones(width)) for t in tasks})
        self.beta = nn.ParameterDict({t: nn.Parameter(torch.zeros(width)) for t in tasks})

    def advance(self, z: Tensor | None, h: Tensor) -> Tensor:
        """Return the state z (B, H, W, w) after this stage, whose frozen map is h (B, H, W, d)."""
        added = 2 * self.gate_logit.sigmoid() * self.down(self.norm(h))
        if z is not None and self.merge is not None:
            # no remainders, for ONNX's shape inference
            below, right = (2 * h.shape[axis] - z.shape[axis] for axis in (1, 2))
            z = F.pad(_channels_first(z), (0, right, 0, below))
            z = _channels_last(self.merge(z))
        return self.mixing(added if z is None else z + added)

    def refine(self, state: SimpleMap, top: SimpleMap, level: SimpleMap, prior: Tensor) -> Tensor:
        """Return e (B, w, H, W) of a fine stage from its own state, the last one and the image."""
        assert self.from_prior and self.from_top and self.fusion
        above = with_values(top, _channels_first(self.from_top(_cells(top))))
        e = _channels_last(resample_like(state, level) + resample_like(above, level))
        # the same size, which ONNX's shape inference does not see
        prior = take_first(take_first(prior, 1, e.shape[1]), 2, e.shape[2])
        return _channels_first(self.fusion(e + self.from_prior(prior)))


@PEFT_METHODS.register_module()
class SideVMT(PEFTMethod):
    """A branch next to the frozen backbone, and VMT-Adapter's scales and shifts per task.

    With the frozen maps h_n of the four stages, p_n of :class:`ImagePrior`, and gates g that start
    at 1, the state z of the branch and the features of task t are::

        z_n = Mix5(merge(z_{n-1}) + g_n Down_n(LN h_n))
        e_n = Mix3(up(z_n) + up(Top_n z_3) + Prior_n p_n) for strides 4 and 8, else up(z_n)
        feature_t,n = h_n + Up_n(alpha_t,n * e_n + beta_t,n)

    up() resamples to the stride of the map. merge() is a convolution of 2 x 2 cells if the widths
    differ, as in Swin, else the identity, as in plain ViTs. Up starts at 0, so training starts from
    the frozen features. The backbone runs without gradient, once for all tasks, so its maps may be
    kept (``model.feature_cache``). Config: ``peft=dict(type="SideVMT")``.

    Args:
        ratio: d / w; must divide the channels of every stage.
        prior: channels of the convolutions on the image.
    """

    side = True
    stages: Any  # an nn.ModuleList, whose items torch gives no type

    def __init__(self, ratio: int = 4, prior: int = 32) -> None:
        super().__init__()
        check_positive(self, ratio=ratio, prior=prior)
        self.ratio, self.prior_channels = ratio, prior

    def attach(self, backbone: Backbone) -> None:
        """Create the branch."""
        channels, strides, prior = backbone.out_channels, backbone.strides, self.prior_channels
        widths = [hidden_width(self, d, self.ratio) for d in channels]
        self.prior = ImagePrior(backbone.image_channels or 3, prior)
        self.strides, tasks = strides, backbone.task_names
        sizes = zip(channels, widths, [None, *widths[:-1]], strides, strict=True)
        self.stages = nn.ModuleList(
            SideStage(d, w, before, widths[-1], prior if stride in _FINE else None, tasks)
            for d, w, before, stride in sizes
        )

    def reset_from_pretrained(self, backbone: Backbone) -> None:
        """Set Up = 0, which gives the features of the frozen backbone, and draw the rest."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)):
                module.reset_parameters()
        for stage in self.stages:
            nn.init.zeros_(stage.up.weight)
            nn.init.zeros_(stage.up.bias)
            nn.init.zeros_(stage.gate_logit)
            for task in stage.alpha:
                nn.init.ones_(stage.alpha[task])
                nn.init.zeros_(stage.beta[task])

    def side_features(
        self, images: Tensor, maps: Sequence[SimpleMap], tasks: Sequence[str]
    ) -> dict[str, tuple[Map, ...]]:
        """Return h + Up(alpha * e + beta) of every task, as sums that heads fold into a layer."""
        z, states = None, []
        for stage, level in zip(self.stages, maps, strict=True):
            z = stage.advance(z, _cells(level))
            states.append(with_values(level, _channels_first(z)))
        priors = dict(zip(_FINE, self.prior(images), strict=True))
        features: dict[str, list[Map]] = {task: [] for task in tasks}
        for stage, stride, level, state in zip(
            self.stages, self.strides, maps, states, strict=True
        ):
            extra: SimpleMap = state
            if stride in priors:
                extra = stage.refine(state, states[-1], level, priors[stride])
            for task in tasks:
                weight = stage.up.weight * stage.alpha[task]
                bias = stage.up.bias + stage.up.weight @ stage.beta[task]
                features[task].append(LazySum(level, extra, weight, bias))
        return {task: tuple(levels) for task, levels in features.items()}


def _cells(x: SimpleMap) -> Tensor:
    """Return the values of a map as (B, H, W, C)."""
    return _channels_last(tensors_of(x)[0])


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)
