"""The same model with mmseg's blocks, heads and gradients, to compare speed."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vmt_mm.analysis.experiment import Experiment
from vmt_mm.errors import InputError
from vmt_mm.models import MultiTaskSegmentor
from vmt_mm.models.backbones.swin import MultiTaskSwin
from vmt_mm.models.heads import MLPHead
from vmt_mm.registry import MODELS

#: The baseline variant.
OURS = "ours"
#: Variant -> the parts taken from mmseg; 'full' is full fine-tuning.
REFERENCES = {"stock": ("encoder", "heads", "losses"),
              "stock_full": ("encoder", "heads", "losses", "full")}  # fmt: skip
ABLATIONS = {"mmseg_encoder": ("encoder",), "concatenating_heads": ("heads",),
             "usual_losses": ("losses",)}  # fmt: skip


@MODELS.register_module()
class StockSwin(MultiTaskSwin):
    """mmseg's ``SwinTransformer`` with a PEFT method."""

    def attend(self, block: Any, x: Tensor, *geometry: Any) -> Tensor:
        """Apply mmseg's shifted-window attention, (B, L, d)."""
        return block.attn(x, *geometry)

    def merge_patches(self, merging: nn.Module, hw_shape: tuple[int, int], x: Tensor) -> Tensor:
        """Apply mmseg's patch merging."""
        return merging(x, hw_shape)[0]


@MODELS.register_module()
class StockMLPHead(MLPHead):
    """All-MLP head that concatenates the channels of all scales at stride 4."""

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Convert feature maps (B, C_j, H_j, W_j) to logits (B, out_channels, H_0, W_0)."""
        size = features[0].shape[2:]
        scales = []
        for x, linear in zip(features, self.linears, strict=True):
            x = linear(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
            if x.shape[2:] != size:
                x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
            scales.append(x)
        x = self.fuse(torch.cat(scales, dim=1))
        return self.predict(self.dropout(self.norm(x).relu()))


def use_variant(experiment: Experiment, variant: str) -> Experiment:
    """Replace the parts of a variant; the model must be a MultiTaskSwin with MLPHeads."""
    if variant == OURS:
        return experiment
    parts, cfg = {**REFERENCES, **ABLATIONS}[variant], copy.deepcopy(experiment.cfg)
    heads = [cfg.model.head, *(cfg.model.get("task_heads") or {}).values()]
    kinds = list(dict.fromkeys([cfg.model.backbone.type, *(head.type for head in heads)]))
    if kinds != ["MultiTaskSwin", "MLPHead"]:
        problem = f"need a MultiTaskSwin with MLPHeads, not {', '.join(map(str, kinds))}"
        raise InputError(f"{experiment.path}: the mmseg variants {problem}")
    if "encoder" in parts:
        cfg.model.backbone.type = "StockSwin"
    for head in heads if "heads" in parts else ():
        head.type = "StockMLPHead"
    if "losses" in parts:
        cfg.model.eager_backward = False
    if "full" in parts:
        cfg.model.backbone["peft"] = dict(type="FullFineTuning")
    return replace(experiment, cfg=cfg)


@torch.no_grad()
def logits_difference(model: MultiTaskSegmentor, stock: nn.Module, images: Tensor) -> float:
    """Largest relative difference of logits on (B, 3, H, W); ``stock`` gets the model's weights."""
    stock.load_state_dict(model.state_dict())
    training = model.training
    own, other = model.eval().logits(images), stock.eval().logits(images)
    for one in (model, stock):
        one.train(training)
    return max(float((own[t] - other[t]).abs().max() / other[t].abs().max()) for t in own)
