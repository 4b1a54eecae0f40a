"""Bring ViT checkpoints of any origin to mmpretrain's keys, and load them strictly.

Origins: mmpretrain; timm, and what shares its layout (MAE's and DeiT's repositories); DINOv2's
repository. The mapping was derived from the models' definitions; see
https://arxiv.org/abs/2010.11929, https://arxiv.org/abs/2304.07193.
"""

from __future__ import annotations

import re
from math import isqrt

from mmengine.logging import print_log
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.encoder_in_file import describe_file
from vmt_mm.models.backbones.pretrained import load_strictly, own_state

#: Blocks in chunks, as DINOv2's trainings of large models write them; a block keeps its number.
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_RENAMES = (
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
#: Of a classifier, its pooled norm, or a pretraining task: never loaded.
_DROPPED = re.compile(
    r"^(head|head_dist|pre_logits|fc_norm|decoder\w*|mask_token|dino_head|ibot_head)(\.|$)|^ln2\."
)
_REGISTERS = ("register_tokens", "reg_token")


def detect_origin(state: dict[str, Tensor], source: str = "the file") -> str:
    """Tell who wrote a ViT checkpoint: 'mmpretrain', 'dinov2' or 'timm'.

    Args:
        state: its tensors.
        source: its name, for messages.

    Raises:
        InputError: if the keys are of no known ViT.
    """
    if "layers.0.attn.qkv.weight" in state and "layers.0.ln1.weight" in state:
        return "mmpretrain"
    keys = {_CHUNK.sub(r"blocks.\1.", key) for key in state}
    if "blocks.0.attn.qkv.weight" in keys and "cls_token" in keys:
        # timm drops the token that DINOv2 is pretrained with; MAE's has no LayerScale beside it
        return "dinov2" if {"mask_token", "blocks.0.ls1.gamma"} <= keys else "timm"
    raise InputError(f"{source} is no ViT checkpoint: {describe_file(state)}")


def to_mmpretrain_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ViT checkpoint of any origin; drop what no encoder reads."""
    converted = {}
    for key, value in state.items():
        if _DROPPED.search(key):
            continue
        key = _CHUNK.sub(r"blocks.\1.", key)
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[key] = value
    return converted


def load_vit(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a ViT checkpoint of any origin into a model with mmpretrain's keys.

    Position embeddings of another (square) grid are interpolated as mmpretrain does. A model
    without a class token leaves a checkpoint's out, and its position.

    Args:
        model: the encoder; what its PEFT method added is left alone.
        state: the checkpoint's tensors.
        source: its name, for messages.

    Raises:
        InputError: if a key is missing, unknown, or of another shape; the message gives them.
    """
    origin = detect_origin(state, source)
    if registers := [key for key in _REGISTERS if key in state]:
        raise InputError(
            f"{source} is a ViT with registers, which is not supported: 1 unknown key(s): "
            f"{registers[0]}; take the file without registers"
        )
    state = to_mmpretrain_keys(state)
    own = own_state(model)
    if "cls_token" in state and "cls_token" not in own:
        del state["cls_token"]
        if "pos_embed" in state:
            state["pos_embed"] = state["pos_embed"][:, 1:]
    given = dict(state)
    if "pos_embed" in state:
        state["pos_embed"] = _fit_positions(model, state["pos_embed"], source)
    load_strictly(model, state, source, origin)
    model.resized_keys = frozenset(k for k in state if state[k].shape != given[k].shape)


def _fit_positions(model: nn.Module, positions: Tensor, source: str) -> Tensor:
    """Interpolate position embeddings (1, L, d) to the model's grid; else give them back."""
    own, extra = model.pos_embed, model.num_extra_tokens
    patches = positions.shape[1] - extra
    side = isqrt(patches)
    if positions.shape == own.shape or side * side != patches:
        return positions
    grid = model.patch_resolution
    print_log(
        f"{source}: pos_embed interpolated from a grid of {side} x {side} patches to "
        f"{grid[0]} x {grid[1]}",
        logger="current",
    )
    return model.resize_pos_embed(
        positions, (side, side), grid, model.interpolate_mode, num_extra_tokens=extra
    )
