"""Vision Transformer with a seam for PEFT methods, made of mmpretrain's parts.

ViT: https://arxiv.org/abs/2010.11929; LayerScale: https://arxiv.org/abs/2103.17239. Letters: B
images, d channels, N patches (the h w grid), L = N + 1 tokens where there is a class token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone, embed_patches, patch_grid
from vmt_mm.models.backbones.vit_checkpoint import load_vit
from vmt_mm.models.lazy_resize import LazyResize
from vmt_mm.peft import BlockSpec
from vmt_mm.registry import MODELS

try:
    from mmpretrain.models import VisionTransformer
except ImportError as error:  # all else here runs without mmpretrain
    VisionTransformer, MISSING = nn.Module, error
else:
    MISSING = None

LEVELS = len(PEFTBackbone.strides)
_ARCH_KEYS = {"embed_dims", "num_layers", "num_heads", "feedforward_channels"}
_LAYERS = dict(
    qkv="attn.qkv",
    proj="attn.proj",
    fc1="ffn.layers.0.0",
    fc2="ffn.layers.1",
    norm1="ln1",
    norm2="ln2",
)
#: With SwiGLU.
_GATED = dict(_LAYERS, fc1="ffn.w12", fc2="ffn.w3")


@MODELS.register_module()
class MultiTaskViT(PEFTBackbone, VisionTransformer):
    """A plain ViT that gives every task its own features; its PEFT method says what trains in it.

    The blocks form four groups. What the last block of each gives goes through the final norm; the
    tokens of patches, put back on their grid, are resampled bilinearly to the level's stride. So
    all four maps have d channels, and the pyramid has no parameters. The class token takes part in
    the stream and in what a method adds to it, but reaches no decoder.

    State-dict keys of the encoder are mmpretrain's, without a prefix; a PEFT method only adds keys.

    Args:
        tasks: names of the tasks.
        arch: name in mmpretrain's ``VisionTransformer.arch_zoo``, or a dict of ``embed_dims``,
            ``num_layers``, ``num_heads`` and ``feedforward_channels``.
        out_indices: index of the last block of each of the four groups; None makes equal groups.
        peft: config of the PEFT method; None adapts nothing.
        pretrained: weights of the frozen encoder, of mmpretrain, timm or DINOv2's repository; see
            :func:`vmt_mm.models.backbones.pretrained.locate`.
        allow_random_backbone: accept an encoder without pretrained weights.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        kwargs: further arguments of mmpretrain's ``VisionTransformer``: ``img_size`` (of the grid
            of position embeddings), ``patch_size``, ``layer_scale_init_value`` (above 0 where the
            weights have LayerScale, as DINOv2's), ``with_cls_token``, ...

    Raises:
        InputError: if mmpretrain is not installed, or an argument does not fit.
    """

    unread = dict(
        PEFTBackbone.unread,
        out_type="heads get maps, with the class token left out",
        final_norm="each level has a norm of its own",
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
            raise InputError(f"MultiTaskViT is made of mmpretrain's parts: {MISSING}")
        refuse_unread(MultiTaskViT, kwargs)
        depth = _settings(arch)["num_layers"]
        ends = _group_ends(out_indices, depth)
        super().__init__(arch=arch, out_indices=list(ends), out_type="featmap", **kwargs)
        self.with_cp = with_cp
        for module in self.layers.modules():
            if isinstance(module, DropPath):  # NumPy's numbers stop torch.compile
                module.drop_prob = float(module.drop_prob)
        self.out_channels = (self.embed_dims,) * LEVELS
        self.blocks = tuple(
            BlockSpec.of(
                sum(number > end for end in ends),
                self.embed_dims,
                f"layers.{number}",
                **(_GATED if hasattr(self._module(f"layers.{number}.ffn"), "w12") else _LAYERS),
            )
            for number in range(depth)
        )
        self.parts = {
            **dict.fromkeys(("patch_embed", "cls_token", "pos_embed", "pre_norm"), "embed"),
            **{block.name: block.name for block in self.blocks},
            "ln1": "ln1",
        }
        self.init_peft(tasks, peft, pretrained, allow_random_backbone)

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[LazyResize, ...]]:
        """Run all parts of the backbone, and give the maps of the tasks named.

        Images of any size: they are padded to a multiple of the patch.
        """
        maps: dict[str, list[LazyResize]] = {name: [] for name in names}
        size = (images.shape[2], images.shape[3])  # a slice would be a constant to tracers
        grid, patch = patch_grid(self.patch_embed, images), self.patch_embed.projection.stride
        streams = self.start_streams(names, images)
        streams.apply("embed", partial(self._embed, grid))
        for level, stride in enumerate(self.strides):
            for index in self.blocks_of(level):
                self.run_block(streams, index)
            last = made = None
            tokens_of = streams.end_stage("ln1", self.ln1, level, self.num_extra_tokens)
            for name, tokens in tokens_of.items():
                if tokens is not last:  # tasks with the same tokens share their map
                    on_grid = tokens.reshape(tokens.shape[0], *grid, tokens.shape[2])
                    made = LazyResize(on_grid.permute(0, 3, 1, 2), patch, stride, size)
                    last = tokens
                maps[name].append(made)
        return {name: tuple(levels) for name, levels in maps.items()}

    def _embed(self, grid: tuple[int, int], images: Tensor) -> Tensor:
        """(B, 3, H, W) -> tokens (B, L, d) with their positions on a grid (h, w)."""
        x = embed_patches(self.patch_embed, images)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        positions = self.resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            grid,
            mode=self.interpolate_mode,
            num_extra_tokens=self.num_extra_tokens,
        )
        return self.pre_norm(self.drop_after_pos(x + positions))

    def load_frozen(self, state: dict[str, Tensor], source: str) -> None:
        """Load a ViT checkpoint of any origin, strictly."""
        load_vit(self, state, source)


def _settings(arch: str | Mapping[str, int]) -> Mapping[str, int]:
    """Sizes of an architecture."""
    if isinstance(arch, Mapping):
        if missing := sorted(_ARCH_KEYS - set(arch)):
            raise InputError(f"MultiTaskViT: `arch` lacks {missing}")
        return arch
    zoo = VisionTransformer.arch_zoo
    if str(arch).lower() not in zoo:
        raise InputError(f"MultiTaskViT: `arch` {arch!r} is none of {sorted(zoo)}")
    return zoo[arch.lower()]


def _group_ends(out_indices: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Index of the last block of each group."""
    if out_indices is None:
        if depth % LEVELS:
            raise InputError(
                f"MultiTaskViT: {depth} blocks do not divide into {LEVELS} equal groups; set "
                "`out_indices`, the last block of each"
            )
        return tuple(depth * (level + 1) // LEVELS - 1 for level in range(LEVELS))
    ends: tuple[int, ...] = ()
    if isinstance(out_indices, (list, tuple)) and all(type(index) is int for index in out_indices):
        ends = tuple(index + depth if index < 0 else index for index in out_indices)
    rising = all(a < b for a, b in zip((-1, *ends), ends, strict=False))
    if len(ends) != LEVELS or not rising or ends[-1] != depth - 1:
        raise InputError(
            f"MultiTaskViT: `out_indices` must be {LEVELS} rising indices of blocks, the last one "
            f"{depth - 1}, got {out_indices!r}"
        )
    return ends
