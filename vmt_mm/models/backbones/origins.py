"""Convert Swin and ViT checkpoints of any origin to the libraries' keys, and load them strictly.

Swin, to mmseg's keys: the official repository, timm (old and new layouts), torchvision, Hugging
Face, mmpretrain, mmseg. ViT, to mmpretrain's keys: mmpretrain, timm (also the layout of MAE and
DeiT), DINOv2, Hugging Face. :mod:`vmt_mm.models.backbones.timm_weights` has those of timm's models.
"""

import re
from collections.abc import Mapping
from functools import partial
from math import isqrt
from typing import Any, NoReturn

import torch.nn.functional as F
from torch import Tensor

from vmt_mm.checkpoints.keys import is_recomputed, some
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.hugging_face import from_hugging_face, is_hugging_face, rename
from vmt_mm.models.backbones.looks import family, looks_like
from vmt_mm.models.backbones.pretrained import load_strictly
from vmt_mm.models.backbones.timm_weights import CHUNK
from vmt_mm.peft import Backbone

_SWIN_NAMES = (
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
)
#: To the official names; stages and patch mergings alternate.
_TORCHVISION = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.([1357])\.", lambda found: f"layers.{int(found[1]) // 2}.blocks."),
    (r"^features\.([246])\.", lambda found: f"layers.{int(found[1]) // 2 - 1}.downsample."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
)
_VIT_NAMES = (
    CHUNK,
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^norm_pre\.", "pre_norm."),
    (r"^norm\.", "ln1."),
    (r"^blocks\.(\d+)\.norm(\d)\.", r"layers.\1.ln\2."),
    (r"^blocks\.(\d+)\.ls1\.gamma$", r"layers.\1.attn.gamma1.weight"),
    (r"^blocks\.(\d+)\.ls2\.gamma$", r"layers.\1.ffn.gamma2.weight"),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"layers.\1.ffn.layers.0.0."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"layers.\1.ffn.layers.1."),
    (r"^blocks\.(\d+)\.mlp\.", r"layers.\1.ffn."),
    (r"^blocks\.", "layers."),
)
#: Never loaded: classifiers, parts of the pretraining, and buffers that the model recomputes.
_NOT_OF_SWIN = re.compile(r"^head\.|^norm\.|\.attn_mask$|relative_coords_table$")
_NOT_OF_VIT = re.compile(
    r"^(head|head_dist|pre_logits|fc_norm|decoder\w*|mask_token|dino_head|ibot_head)(\.|$)|^ln2\."
)


def _refuse(state: Mapping[str, Tensor], source: str, kind: str) -> NoReturn:
    """Raise InputError that says what the file looks like, with some of its keys."""
    looks = f"it looks like {found}; " if (found := looks_like(state)) else ""
    keys = f"it has keys like {some(sorted(state))}"
    raise InputError(f"{source} is not a {kind} checkpoint: {looks}{keys}")


def swin_origin(state: Mapping[str, Tensor], source: str = "the file") -> str:
    """Return the origin of a Swin checkpoint: its library, or 'official'."""
    if family(state)[0] == "a Swin-V2":
        _refuse(state, source, "Swin")
    if "features.1.0.attn.qkv.weight" in state:
        return "torchvision"
    if any(k.startswith("encoder.layers.0.blocks.0.attention.") for k in state):
        return "Hugging Face"
    if any(k.startswith("layers.0.blocks.0.attn.") for k in state):
        # newer timm versions put patch merging at the start of the next stage
        return "official" if "layers.0.downsample.reduction.weight" in state else "timm"
    if any(k.startswith("stages.0.blocks.0.attn.w_msa.") for k in state):
        # mmpretrain's classifier has a single final norm, named after the last stage
        classifier = "norm3.weight" in state and "norm0.weight" not in state
        return "mmpretrain" if classifier else "mmseg"
    _refuse(state, source, "Swin")


def to_mmseg_keys(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Rename and reorder the tensors of a Swin checkpoint; drop the classifier's norm and head."""
    if origin == "Hugging Face":
        state = from_hugging_face(state)
    elif origin == "torchvision":
        state = {rename(key, _TORCHVISION): value for key, value in state.items()}
    converted = {}
    for key, value in state.items():
        if _NOT_OF_SWIN.search(key) or is_recomputed(key):
            continue
        stage = re.match(r"layers\.(\d)(\.downsample\..*)", key)
        if stage:
            key = f"layers.{int(stage[1]) - (origin == 'timm')}{stage[2]}"
            value = _unfold_order(value)
        if origin not in ("mmseg", "mmpretrain"):
            key = rename(key, _SWIN_NAMES)
        if origin != "mmpretrain" or not key.startswith("norm3."):
            converted[key] = value
    return converted


def _unfold_order(value: Tensor) -> Tensor:
    """Reorder the inputs of patch merging, (..., 4 C), from concatenation to ``nn.Unfold``.

    From pixels (0,0), (1,0), (0,1), (1,1), channels innermost, to row by row, channels outermost.
    """
    pixels_first = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return pixels_first.transpose(-1, -2).flatten(-2)


def swin_may_miss(key: str) -> bool:
    """Whether an ImageNet checkpoint may lack a key: output norms keep their initial values."""
    return bool(re.match(r"norm\d\.", key)) or is_recomputed(key)


def load_swin(backbone: Backbone, state: dict[str, Tensor], source: str) -> None:
    """Load a Swin checkpoint of any origin strictly; interpolate tables of other window sizes."""
    origin = swin_origin(state, source)
    looks = partial(looks_like, state, "MultiTaskSwin")
    state = to_mmseg_keys(state, origin)
    load_strictly(backbone, state, source, origin, swin_may_miss, _resize_table, looks)


def _resize_table(key: str, table: Tensor, own: Tensor) -> Tensor:
    """Interpolate a bias table ((2 w - 1)^2, heads) to the model's window size, as mmseg does."""
    if not key.endswith("relative_position_bias_table") or table.shape[1] != own.shape[1]:
        return table
    side, own_side = (round(t.shape[0] ** 0.5) for t in (table, own))
    grid = table.float().T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=(own_side, own_side), mode="bicubic")
    return grid.reshape(own.shape[1], -1).T.contiguous().to(table.dtype)


def vit_origin(state: Mapping[str, Tensor], source: str = "the file") -> str:
    """Return the origin of a ViT checkpoint: 'mmpretrain', 'dinov2', 'timm' or 'Hugging Face'."""
    if family(state)[0] in ("a DINOv2 with registers", "a DINOv3", "an EVA"):
        _refuse(state, source, "plain ViT")
    if is_hugging_face(state) and {"embeddings.cls_token", "layernorm.weight"} <= state.keys():
        return "Hugging Face"
    if "layers.0.attn.qkv.weight" in state and "layers.0.ln1.weight" in state:
        return "mmpretrain"
    keys = {re.sub(*CHUNK, key) for key in state}
    if "blocks.0.attn.qkv.weight" in keys and "cls_token" in keys:
        # timm's DINOv2 lacks the mask token; MAE has one, but no LayerScale
        return "dinov2" if {"mask_token", "blocks.0.ls1.gamma"} <= keys else "timm"
    _refuse(state, source, "ViT")


def to_mmpretrain_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a ViT checkpoint; drop heads and parts of the pretraining."""
    state = from_hugging_face(state) if is_hugging_face(state) else state
    return {rename(k, _VIT_NAMES): v for k, v in state.items() if not _NOT_OF_VIT.search(k)}


def load_vit(backbone: Any, state: dict[str, Tensor], source: str) -> None:
    """Load a ViT checkpoint of any origin strictly; interpolate positions of another grid.

    A model without a class token drops that of the checkpoint and its position.
    """
    origin = vit_origin(state, source)
    looks = partial(looks_like, state, "MultiTaskViT")
    state = to_mmpretrain_keys(state)
    if "cls_token" in state and backbone.cls_token is None:
        del state["cls_token"]
        state["pos_embed"] = state["pos_embed"][:, 1:]

    def resize(key: str, positions: Tensor, own: Tensor) -> Tensor:
        extra = backbone.num_extra_tokens
        side = isqrt(positions.shape[1] - extra)
        if key != "pos_embed" or side * side + extra != positions.shape[1]:
            return positions
        grids = ((side, side), backbone.patch_resolution)
        return backbone.resize_pos_embed(positions, *grids, backbone.interpolate_mode, extra)

    load_strictly(backbone, state, source, origin, resize=resize, looks=looks)
