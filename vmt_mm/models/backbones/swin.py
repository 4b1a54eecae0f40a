"""Swin Transformer with a seam for PEFT methods, made of mmseg's parts.

Swin: https://arxiv.org/abs/2103.14030. Letters: B images, L = H W tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mmseg.models.backbones import SwinTransformer
from torch import Tensor

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.models.backbones.origins import load_swin
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone, embed_patches, patch_grid
from vmt_mm.models.backbones.window_attention import attend, pad_map
from vmt_mm.peft import BlockSpec
from vmt_mm.registry import MODELS

#: nano (0.9 M parameters) is this project's own; the others are the paper's.
ARCHITECTURES: dict[str, dict[str, Any]] = dict(
    nano=dict(embed_dims=20, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
    tiny=dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    small=dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    base=dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    large=dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
)
_MLP = dict(fc1="ffn.layers.0.0", fc2="ffn.layers.1", norm1="norm1", norm2="norm2")
_LAYERS = dict(_MLP, qkv="attn.w_msa.qkv", proj="attn.w_msa.proj")
_LAYERS["relative_position_table"] = "attn.w_msa.relative_position_bias_table"


@MODELS.register_module()
class MultiTaskSwin(PEFTBackbone, SwinTransformer):
    """A Swin that gives every task its own features; its PEFT method decides what is trained.

    mmseg's class only builds the parts, so that state-dict keys are mmseg's; its forward is never
    used. A PEFT method only adds keys.

    Args:
        tasks, arch: names of the tasks; one of ``ARCHITECTURES``.
        peft: config of the PEFT method; None adapts nothing.
        pretrained: file of the frozen backbone's weights, see ``pretrained.locate``.
        allow_random_backbone: accept a backbone without pretrained weights.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        drop_path_rate, kwargs: stochastic depth, without effect in frozen layers; mmseg's others.
    """

    load_frozen = load_swin
    unread = dict(
        PEFTBackbone.unread,
        use_abs_pos_embed="Swin's positions are those of its windows",
        out_indices="heads get all four stages",
        strides="the four maps have strides 4, 8, 16 and 32",
    )

    def __init__(
        self,
        tasks: Sequence[str],
        arch: str = "tiny",
        peft: dict | None = None,
        pretrained: str | None = None,
        allow_random_backbone: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if arch not in ARCHITECTURES:
            raise InputError(f"MultiTaskSwin: `arch` {arch!r} is none of {list(ARCHITECTURES)}")
        refuse_unread(MultiTaskSwin, kwargs)
        sizes = {**ARCHITECTURES[arch], **kwargs}
        super().__init__(drop_path_rate=drop_path_rate, **sizes)
        self.with_cp = with_cp
        self.out_channels = tuple(self.num_features)
        self.blocks = tuple(
            BlockSpec.of(stage, channels, f"stages.{stage}.blocks.{number}", **_LAYERS)
            for stage, channels in enumerate(self.out_channels)
            for number in range(sizes["depths"][stage])
        )
        around = [f"stages.{n}.downsample" for n in range(3)] + [f"norm{n}" for n in range(4)]
        names = ["patch_embed", *around, *(block.name for block in self.blocks)]
        self.parts = {name: name for name in names}
        self.init_peft(tasks, peft, pretrained, allow_random_backbone)

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[Tensor, ...]]:
        """Run all parts of the backbone, and give the maps of the tasks named."""
        maps: dict[str, list[Tensor]] = {name: [] for name in names}
        hw_shape = patch_grid(self.patch_embed, images)
        streams = self.start_streams(names, images)
        streams.apply("patch_embed", self._embed)
        for stage in range(4):
            for index in self.blocks_of(stage):
                self.run_block(streams, index, hw_shape)
            tokens_of = streams.end_stage(f"norm{stage}", self.get_submodule(f"norm{stage}"), stage)
            for name, tokens in tokens_of.items():
                # channels-last in memory: the heads' linear layers read it without a copy
                on_grid = tokens.reshape(tokens.shape[0], *hw_shape, tokens.shape[2])
                maps[name].append(on_grid.permute(0, 3, 1, 2))
            if stage < 3:
                part = f"stages.{stage}.downsample"
                streams.apply(part, partial(self.merge_patches, self.get_submodule(part), hw_shape))
                hw_shape = ((hw_shape[0] + 1) // 2, (hw_shape[1] + 1) // 2)
        return {name: tuple(levels) for name, levels in maps.items()}

    def _embed(self, images: Tensor) -> Tensor:
        return self.drop_after_pos(embed_patches(self.patch_embed, images))

    def attend(self, attn: Any, x: Tensor, *geometry: Any) -> Tensor:
        """The attention of a block on x (B, L, d), of a map H x W."""
        return attend(attn, x, *geometry)

    def merge_patches(self, merging: Any, hw_shape: tuple[int, int], x: Tensor) -> Tensor:
        """Patch merging as mmseg's, by one copy: (B, L, d) of a map H x W to (B, L', 2 d)."""
        (height, width), channels = hw_shape, merging.in_channels
        high, wide = (height + 1) // 2, (width + 1) // 2
        x = pad_map(x.reshape(x.shape[0], height, width, channels), 2 * high, 2 * wide)
        x = x.reshape(x.shape[0], high, 2, wide, 2, channels)
        # a token's channels in the order of an unfolding: neighbours within each channel
        x = x.permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], high * wide, 4 * channels)
        return merging.reduction(x if merging.norm is None else merging.norm(x))
