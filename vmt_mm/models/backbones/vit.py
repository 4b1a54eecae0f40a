"""Vision Transformer with a PEFT method, built from mmpretrain's modules.

Notation: B images, d channels, N = h w patches, L = N + 1 tokens with a class token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.models.backbones.origins import load_vit
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone, embed_patches
from vmt_mm.models.backbones.plain_vit import PlainViT, group_ends
from vmt_mm.registry import MODELS

VisionTransformer: Any = nn.Module
MISSING: ImportError | None = None
try:
    VisionTransformer = import_module("mmpretrain.models").VisionTransformer
except ImportError as error:  # everything else works without mmpretrain
    MISSING = error

_COMMON = dict(qkv="attn.qkv", proj="attn.proj", norm1="ln1", norm2="ln2")
_LAYERS = dict(_COMMON, fc1="ffn.layers.0.0", fc2="ffn.layers.1")
_GATED = dict(_COMMON, fc1="ffn.w12", fc2="ffn.w3")  # with SwiGLU


@MODELS.register_module()
class MultiTaskViT(PlainViT, VisionTransformer):
    """Plain ViT of mmpretrain's modules; its PEFT method decides what is trained.

    :class:`PlainViT` says how blocks give feature maps. State-dict keys are mmpretrain's, plus
    those of the method. ViT: https://arxiv.org/abs/2010.11929; LayerScale:
    https://arxiv.org/abs/2103.17239.

    Args:
        arch: name in mmpretrain's ``VisionTransformer.arch_zoo``, or a dict of ``embed_dims``,
            ``num_layers``, ``num_heads`` and ``feedforward_channels``.
        out_indices: index of the last block of each group; None makes four equal groups.
        kwargs: of mmpretrain's ``VisionTransformer``: ``img_size`` (of the position embeddings),
            ``patch_size``, ``layer_scale_init_value`` (above 0 for DINOv2's weights), ...

    The other arguments are those of :class:`MultiTaskSwin`.
    """

    load_frozen = load_vit
    unread = dict(
        PEFTBackbone.unread,
        out_type="heads always get feature maps without the class token",
        final_norm="all four maps use the final norm",
    )

    def __init__(
        self,
        tasks: Sequence[str],
        arch: str | Mapping[str, int] = "base",
        out_indices: Sequence[int] | None = None,
        peft: dict | None = None,
        pretrained: str | None = None,
        allow_random_backbone: bool = False,
        with_cp: bool = False,
        **kwargs: Any,
    ) -> None:
        if MISSING:
            raise InputError(f"MultiTaskViT needs mmpretrain, install it: {MISSING}")
        refuse_unread(MultiTaskViT, kwargs)
        try:
            VisionTransformer.__init__(self, arch=arch, out_type="featmap", **kwargs)
        except AssertionError as error:  # its text names the wrong setting
            raise InputError(f"MultiTaskViT: {error}") from None
        # mmpretrain's hook refers to the model and keeps it alive; this one gets it as an argument
        self._load_state_dict_pre_hooks.clear()
        self._register_load_state_dict_pre_hook(VisionTransformer._prepare_pos_embed, True)
        self.with_cp = with_cp
        self.out_indices = group_ends("MultiTaskViT", out_indices, self.num_layers)
        for module in self.layers.modules():
            if isinstance(module, DropPath):  # NumPy scalars break torch.compile
                module.drop_prob = float(module.drop_prob)
        layers = {
            f"layers.{number}": _GATED if hasattr(layer.ffn, "w12") else _LAYERS
            for number, layer in enumerate(self.layers)
        }
        embedding = ("patch_embed", "cls_token", "pos_embed", "pre_norm")
        self.describe(self.embed_dims, layers, embedding, output_norm="ln1")
        self.init_peft(tasks, peft, pretrained, allow_random_backbone)

    def embed(self, grid: tuple[int, int], images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, L, d) with positions on a grid (h, w)."""
        x = embed_patches(self.patch_embed, images)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        grids, mode = (self.patch_resolution, grid), self.interpolate_mode
        x = x + self.resize_pos_embed(self.pos_embed, *grids, mode, self.num_extra_tokens)
        return self.pre_norm(self.drop_after_pos(x))
