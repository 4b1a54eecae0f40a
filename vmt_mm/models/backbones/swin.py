"""Swin Transformer with a seam for PEFT methods, made of mmseg's parts.

Swin: https://arxiv.org/abs/2103.14030. Letters: B images, L = H W tokens, d channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

from mmseg.models.backbones import SwinTransformer
from torch import Tensor, nn

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.models.backbones.patch_merging import merge
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone
from vmt_mm.models.backbones.swin_checkpoint import load_swin
from vmt_mm.models.backbones.task_streams import TaskStreams
from vmt_mm.models.backbones.window_attention import BiasCache, attend
from vmt_mm.peft import BlockSpec
from vmt_mm.registry import MODELS
from vmt_mm.utils.compat import is_exporting

#: nano (0.9 M parameters) is this project's own; the others are the paper's.
ARCHITECTURES: dict[str, dict[str, Any]] = dict(
    nano=dict(embed_dims=20, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
    tiny=dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    small=dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    base=dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    large=dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
)


def _describe_block(stage: int, number: int, channels: int) -> BlockSpec:
    name = f"stages.{stage}.blocks.{number}"
    layers = dict(
        qkv="attn.w_msa.qkv",
        proj="attn.w_msa.proj",
        fc1="ffn.layers.0.0",
        fc2="ffn.layers.1",
        norm1="norm1",
        norm2="norm2",
        relative_position_table="attn.w_msa.relative_position_bias_table",
    )
    return BlockSpec(stage, channels, name, {role: f"{name}.{x}" for role, x in layers.items()})


@MODELS.register_module()
class MultiTaskSwin(PEFTBackbone, SwinTransformer):
    """A Swin that gives every task its own features; what trains in it, its PEFT method decides.

    State-dict keys of the encoder are mmseg's, without a prefix; a PEFT method only adds keys.

    Args:
        tasks: names of the tasks.
        arch: one of ``ARCHITECTURES``.
        peft: config of the PEFT method; None adapts nothing.
        pretrained: weights of the frozen encoder, of the official repository, timm, mmpretrain
            or mmseg; see :func:`vmt_mm.models.backbones.pretrained.locate`.
        allow_random_backbone: accept an encoder without pretrained weights.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        drop_path_rate: stochastic depth; off by default, and without effect beside layers that are
            frozen.
        kwargs: further arguments of mmseg's ``SwinTransformer``.
    """

    unread = dict(
        PEFTBackbone.unread,
        use_abs_pos_embed="Swin's positions are those of its windows",
        out_indices="heads get all four stages",
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
        super().__init__(drop_path_rate=drop_path_rate, **{**ARCHITECTURES[arch], **kwargs})
        self.with_cp = with_cp
        self.out_channels = tuple(self.num_features)
        self.blocks = tuple(
            _describe_block(stage, number, channels)
            for stage, channels in enumerate(self.num_features)
            for number in range(len(self.stages[stage].blocks))
        )
        names = (
            "patch_embed",
            *(block.name for block in self.blocks),
            *(f"stages.{n}.downsample" for n, s in enumerate(self.stages) if s.downsample),
            *(f"norm{n}" for n in self.out_indices),
        )
        self.parts = {name: name for name in names}
        self._biases = BiasCache()
        self.init_peft(tasks, peft, pretrained, allow_random_backbone)

    def attend(self, index: int, attn: nn.Module, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """The attention of a block, (B, L, d)."""
        if is_exporting():  # what is below caches by size
            return attn(x, hw_shape)
        return attend(attn, x, hw_shape, self._biases.bias(index, attn.w_msa))

    def _downsample(
        self, merging: nn.Module, hw_shape: tuple[int, int], x: Tensor
    ) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, L, d) of a stage to those of the next one, and its H, W."""
        return merge(merging, x, hw_shape)

    def load_frozen(self, state: dict[str, Tensor], source: str) -> None:
        """Load a Swin checkpoint of any origin, strictly."""
        load_swin(self, state, source)

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[Tensor, ...]]:
        """Run all parts of the encoder, and give the maps of the tasks named."""
        passes = self.start_streams(names, images)
        for stream, embedded in passes.through("patch_embed", self.patch_embed):
            x, hw_shape = embedded
            stream.x = self.drop_after_pos(x)  # (B, L, d)
        maps: dict[str, list[Tensor]] = {name: [] for name in names}
        indices = count()
        for number, stage in enumerate(self.stages):
            for _ in stage.blocks:
                self.run_block(passes, next(indices), hw_shape)
            self._emit(passes, number, hw_shape, maps)
            if stage.downsample is not None:
                halve = partial(self._downsample, stage.downsample, hw_shape)
                for stream, merged in passes.through(f"stages.{number}.downsample", halve):
                    stream.x, following = merged
                hw_shape = following
        return {name: tuple(levels) for name, levels in maps.items()}

    def _emit(
        self,
        passes: TaskStreams,
        number: int,
        hw_shape: tuple[int, int],
        maps: dict[str, list[Tensor]],
    ) -> None:
        """Append every task's map of a stage."""
        norm = getattr(self, f"norm{number}")
        for tasks, feature, kept in passes.finish(f"norm{number}", norm):
            tokens_of = self.peft.for_decoders(number, feature, kept, tasks)
            for name, tokens in tokens_of.items():
                # channels-last in memory: the heads' linear layers read it without a copy
                on_grid = tokens.reshape(tokens.shape[0], *hw_shape, tokens.shape[2])
                maps[name].append(on_grid.permute(0, 3, 1, 2))
