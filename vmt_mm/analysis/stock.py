"""The stock composition that speed is compared with: mmseg's own Swin and concatenating heads.

The same adapters, heads' parameters and losses under the same state-dict keys; only how the
encoder's blocks and the heads are computed is mmseg's, so that any difference in time is theirs.
Letters: B images, C channels, D width of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.analysis.models import Experiment
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.backbones.swin import MultiTaskSwin
from vmt_mm.models.heads import MLPHead
from vmt_mm.registry import MODELS

#: The variant that the others compare with.
OURS = "ours"


@MODELS.register_module()
class StockSwin(MultiTaskSwin):
    """mmseg's ``SwinTransformer`` with a PEFT method beside its MLPs."""

    def attend(self, index: int, attn: nn.Module, x: Tensor, *geometry: Any) -> Tensor:
        """Shifted-window attention as mmseg has it, (B, L, d)."""
        return attn(x, *geometry)

    def run_mlp(self, block: nn.Module, y: Tensor) -> Tensor:
        """The MLP as mmseg has it, on all tokens at once, (B, L, d)."""
        return block.ffn(block.norm2(y))

    def _downsample(
        self, merging: nn.Module, hw_shape: tuple[int, int], x: Tensor
    ) -> tuple[Tensor, tuple[int, int]]:
        """Patch merging as mmseg has it."""
        return merging(x, hw_shape)


@MODELS.register_module()
class StockMLPHead(MLPHead):
    """The All-MLP head as it is defined, with the map of all scales' channels at stride 4."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        size = features[0].shape[2:]
        scales = []
        for x, linear in zip(features, self.linears, strict=True):
            x = linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
            if x.shape[2:] != size:
                x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            scales.append(x)
        x = self.fuse(torch.cat(scales, dim=1))
        return self.predict(self.dropout(self.norm(x).relu()))


def _change(
    experiment: Experiment,
    encoder: bool = False,
    heads: bool = False,
    losses: bool = False,
    peft: dict[str, Any] | None = None,
) -> Experiment:
    """The experiment with stock parts.

    Args:
        experiment: the config.
        encoder: mmseg's attention and patch merging.
        heads: heads that concatenate.
        losses: differentiated in the usual order.
        peft: another method.
    """
    cfg = copy.deepcopy(experiment.cfg)
    own = [cfg.model.head, *(cfg.model.get("task_heads") or {}).values()]
    kinds = [cfg.model.backbone.type, *(head.type for head in own)]
    if kinds != ["MultiTaskSwin", *["MLPHead"] * len(own)]:
        raise InputError(
            f"{experiment.path}: the stock composition is of a MultiTaskSwin with MLPHeads, not of "
            f"{', '.join(dict.fromkeys(map(str, kinds)))}"
        )
    if encoder:
        cfg.model.backbone.type = "StockSwin"
    for head in own if heads else ():
        head.type = "StockMLPHead"
    if losses:
        cfg.model.eager_backward = False
    if peft:
        cfg.model.backbone["peft"] = peft
    return replace(experiment, cfg=cfg)


_stock = partial(_change, encoder=True, heads=True, losses=True)
#: Variant -> what it makes of an experiment: what is compared with, and ours without one step.
REFERENCES: Mapping[str, Callable[[Experiment], Experiment]] = {
    "stock": _stock,
    "stock_full": partial(_stock, peft=dict(type="FullFineTuning")),
}
ABLATIONS: Mapping[str, Callable[[Experiment], Experiment]] = {
    "mmseg_encoder": partial(_change, encoder=True),
    "concatenating_heads": partial(_change, heads=True),
    "usual_losses": partial(_change, losses=True),
}
VARIANTS = {OURS: lambda experiment: experiment, **REFERENCES, **ABLATIONS}


@torch.no_grad()
def logits_difference(
    model: MultiTaskSegmentor, stock: MultiTaskSegmentor, images: Tensor
) -> float:
    """Largest difference of logits between a model and its stock form, of the largest logit.

    Args:
        model: whose weights the stock model is given.
        stock: the same config's stock composition.
        images: (B, 3, H, W).
    """
    stock.load_state_dict(model.state_dict())
    modes = [m.training for m in (model, stock)]
    own, other = model.eval().logits(images), stock.eval().logits(images)
    for one, training in zip((model, stock), modes, strict=True):
        one.train(training)
    return max(
        ((own[task] - other[task]).abs().max() / other[task].abs().max()).item() for task in own
    )
