"""Bring Swin checkpoints of any origin to mmseg's keys, and load them strictly.

Origins: the official repository, timm (old and new key layouts), mmpretrain, mmseg. The mapping
was derived from both models' definitions; see https://arxiv.org/abs/2103.14030.
"""

from __future__ import annotations

import re

import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.encoder_in_file import describe_file
from vmt_mm.models.backbones.pretrained import load_strictly, own_state

_RENAMES = (
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
)
#: Of a classifier, or recomputed by the model: never loaded.
_DROPPED = re.compile(
    r"^head\.|^norm\.|\.attn_mask$|relative_position_index$|relative_coords_table$"
)
#: What an ImageNet checkpoint does not have: it keeps its initial values.
MAY_MISS = re.compile(r"^norm\d\.|relative_position_index$")


def detect_origin(state: dict[str, Tensor], source: str = "the file") -> str:
    """Tell who wrote a Swin checkpoint: 'official', 'timm', 'mmpretrain' or 'mmseg'.

    Args:
        state: its tensors.
        source: its name, for messages.

    Raises:
        InputError: if the keys are of no known Swin.
    """
    if any(k.startswith("layers.0.blocks.0.attn.") for k in state):
        # Newer timm versions put the patch merging at the start of the next stage.
        return "official" if "layers.0.downsample.reduction.weight" in state else "timm"
    if any(k.startswith("stages.0.blocks.0.attn.w_msa.") for k in state):
        # mmpretrain's classifier has one final norm, which it names after the last stage.
        classifier = "norm3.weight" in state and "norm0.weight" not in state
        return "mmpretrain" if classifier else "mmseg"
    raise InputError(f"{source} is no Swin checkpoint: {describe_file(state)}")


def to_mmseg_keys(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reorder a Swin checkpoint of any origin; drop what a classifier adds.

    The final norm of a classifier is dropped whatever its name, so that one set of weights gives
    one model, whoever converted it.
    """
    origin = detect_origin(state)
    state = {k: v for k, v in state.items() if not _DROPPED.search(k)}
    if origin == "mmseg":
        return state
    if origin == "mmpretrain":
        return {k: v for k, v in state.items() if not k.startswith("norm3.")}
    converted = {}
    for key, value in state.items():
        if origin == "timm":
            key = re.sub(
                r"^layers\.(\d)\.downsample\.",
                lambda m: f"layers.{int(m[1]) - 1}.downsample.",
                key,
            )
        if ".downsample." in key:
            value = _unfold_order(value)
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        converted[key] = value
    return converted


def _unfold_order(value: Tensor) -> Tensor:
    """Reorder the 4 C inputs of a patch merging, (..., 4 C), from concatenation to ``nn.Unfold``.

    The official model concatenates the patch's pixels in the order (0,0), (1,0), (0,1), (1,1) with
    channels innermost; ``nn.Unfold`` has rows first and channels outermost.
    """
    pixels_first = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return pixels_first.transpose(-1, -2).flatten(-2)


def load_swin(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a Swin checkpoint of any origin into a model with mmseg's keys.

    Tables of relative positions of another window size are interpolated (bicubic, as mmseg does).

    Args:
        model: the encoder; what its PEFT method added is left alone.
        state: the checkpoint's tensors.
        source: its name, for messages.

    Raises:
        InputError: if a key is missing, unknown, or of another shape; the message gives them.
    """
    origin = detect_origin(state, source)
    state = to_mmseg_keys(state)
    own = own_state(model)
    given = dict(state)
    for key in [k for k in state if k.endswith("relative_position_bias_table") and k in own]:
        state[key] = _resize_table(state[key], own[key], key, source)
    load_strictly(model, state, source, origin, MAY_MISS.search)
    model.resized_keys = frozenset(k for k in state if state[k].shape != given[k].shape)


def _resize_table(table: Tensor, own: Tensor, key: str, source: str) -> Tensor:
    """Interpolate a table ((2 w - 1)^2, heads) to the model's window size."""
    if table.shape[1] != own.shape[1] or table.shape == own.shape:
        return table
    side, own_side = (round(t.shape[0] ** 0.5) for t in (table, own))
    print_log(
        f"{source}: {key} interpolated from window {(side + 1) // 2} to {(own_side + 1) // 2}",
        logger="current",
    )
    grid = table.float().T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, size=(own_side, own_side), mode="bicubic")
    return grid.reshape(own.shape[1], -1).T.contiguous().to(table.dtype)
