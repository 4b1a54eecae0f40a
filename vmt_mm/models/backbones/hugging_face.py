"""Rename the tensors of Hugging Face's ViTs and Swins to the keys of the original repositories."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

#: In this order; newer versions of the library have other names than files.
_NAMES: Any = (
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.", ""),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(post_)?layernorm\.", "norm."),
    (r"^hidden_states_norms\.stage(\d)\.", lambda found: f"norm{int(found[1]) - 1}."),
    (r"^encoder\.(layers\.\d\.(blocks|downsample)\.)", r"\1"),
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.(?!blocks|downsample)", r"blocks.\2."),
    (r"\.(attention|self_attn)\.(attention\.|self\.)?(relative_position_bias\.)?", ".attn."),
    (r"\.attn\.(output\.dense|o_proj|out_proj)\.", ".attn.proj."),
    (r"\.attn\.(q|k|v)(uery|ey|alue)\.", r".attn.\1_proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
_MLP = ((r"\.up_proj\.", ".fc1."), (r"\.down_proj\.", ".fc2."))
_GATED = ((r"\.gate_proj\.", ".w1."), (r"\.up_proj\.", ".w2."), (r"\.down_proj\.", ".w3."))
#: Of classifiers; a Swin for detectors has the classifier's norm below another prefix.
_NOT_OURS = ("pooler.", "swin.layernorm.")


def rename(key: str, names: Iterable[tuple[str, Any]]) -> str:
    """Apply pairs of a regular expression and its replacement, in their order."""
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


def is_hugging_face(state: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of a vision model of Hugging Face, without a prefix."""
    return any(key.startswith("embeddings.patch_embedding") for key in state)


def from_hugging_face(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the keys of the original repositories, with q, k and v fused.

    If no block has a bias of k (DINOv3), it is zero. Incomplete q, k, v keep their keys.
    """
    names = (*_NAMES, *(_GATED if any(".gate_proj." in key for key in state) else _MLP))
    own = {rename(k, names): v for k, v in state.items() if not k.startswith(_NOT_OURS)}
    if not any(key.endswith(".k_proj.bias") for key in own):
        biases = [key for key in own if key.endswith(".q_proj.bias")]
        own |= {key.replace("q_proj", "k_proj"): torch.zeros_like(own[key]) for key in biases}
    for key in [key for key in own if ".q_proj." in key]:
        parts = [key.replace("q_proj", f"{part}_proj") for part in "qkv"]
        if own.keys() >= set(parts):
            own[key.replace("q_proj", "qkv")] = torch.cat([own.pop(part) for part in parts])
    if "register_tokens" in own and "pos_embed" not in own:
        own["storage_tokens"] = own.pop("register_tokens")
    for key in {"pos_embed", "cls_token"} & own.keys():  # CLIP's and SigLIP's lack dimensions
        own[key] = own[key].reshape((1, 1, *own[key].shape)[-3:])
    return own
