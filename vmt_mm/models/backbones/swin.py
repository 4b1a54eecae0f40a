"""Swin Transformer with a seam for PEFT methods, made of mmseg's parts.

Swin: https://arxiv.org/abs/2103.14030. Letters: B images, L = H W tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.backbones import SwinTransformer
from mmseg.models.backbones.swin import SwinBlock
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.seam import AdaptedEncoder
from vmt_mm.models.backbones.swin_checkpoint import load_swin
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


@MODELS.register_module()
class MultiTaskSwin(AdaptedEncoder, SwinTransformer):
    """A frozen Swin that gives every task its own features, in one pass.

    State-dict keys of the encoder are mmseg's, without a prefix; a PEFT method only adds keys.

    Args:
        tasks: names of the tasks.
        arch: one of ``ARCHITECTURES``.
        peft: config of the PEFT method; None adapts nothing.
        pretrained: weights of the frozen encoder, of the official repository, timm, mmpretrain
            or mmseg; see :func:`vmt_mm.models.backbones.pretrained.locate`.
        allow_random_backbone: accept an encoder without pretrained weights.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        drop_path_rate: stochastic depth; off by default, as the encoder is frozen.
        kwargs: further arguments of mmseg's ``SwinTransformer``.
    """

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
        super().__init__(drop_path_rate=drop_path_rate, **{**ARCHITECTURES[arch], **kwargs})
        self.with_cp = with_cp
        self.out_channels = tuple(self.num_features)
        self.blocks = tuple(
            BlockSpec(stage, channels)
            for stage, channels in enumerate(self.num_features)
            for _ in self.stages[stage].blocks
        )
        self.set_up_seam(tasks, peft, pretrained, allow_random_backbone)

    def load_frozen(self, state: dict[str, Tensor], source: str) -> None:
        """Load a Swin checkpoint of any origin, strictly."""
        load_swin(self, state, source)

    def forward(
        self, images: Tensor, tasks: Sequence[str] | None = None
    ) -> dict[str, tuple[Tensor, ...]]:
        """Run the encoder once.

        Args:
            images: (B, 3, H, W), normalised, of any size.
            tasks: the tasks wanted; None wants all.

        Returns:
            Task name -> four maps (B, C_j, ceil(H / s_j), ceil(W / s_j)), s = 4, 8, 16, 32.
        """
        names = self.select_tasks(tasks)
        x, hw_shape = self.patch_embed(images)  # (B, L, d)
        x = self.drop_after_pos(x)
        maps: dict[str, list[Tensor]] = {name: [] for name in names}
        index = 0
        for number, stage in enumerate(self.stages):
            kept = []
            for block in stage.blocks:
                x, for_decoders = self._run_block(block, index, x, hw_shape)
                kept.append(for_decoders)
                index += 1
            feature = getattr(self, f"norm{number}")(x)
            for name, tokens in self.peft.for_decoders(number, feature, kept, names).items():
                # channels-last in memory: the heads' linear layers read it without a copy
                maps[name].append(tokens.unflatten(1, hw_shape).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x, hw_shape = stage.downsample(x, hw_shape)
        return {name: tuple(levels) for name, levels in maps.items()}

    def _run_block(
        self, block: SwinBlock, index: int, x: Tensor, hw_shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(
                self._block_and_branch, block, index, x, hw_shape, use_reentrant=False
            )
        return self._block_and_branch(block, index, x, hw_shape)

    def _block_and_branch(
        self, block: SwinBlock, index: int, x: Tensor, hw_shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """One block and the method's branch: the new stream and what the decoders get."""
        y = x + block.attn(block.norm1(x), hw_shape)
        branch = self.peft.beside_mlp(index, y)
        x = block.ffn(block.norm2(y), identity=y)
        if branch.stream is not None:
            x = x + branch.stream
        return x, branch.for_decoders
