"""What plain ViTs share: four groups of blocks, and their maps resampled to four strides.

Notation: B images, d channels, N = h w patches, L = N plus the class and register tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone, patch_convolution, patch_grid
from vmt_mm.peft import BlockSpec, TokenGrid
from vmt_mm.utils.feature_maps import LazyResize


class PlainViT(PEFTBackbone):
    """Mixin for ViTs of one width.

    The blocks form four groups. The last block of each group gives a feature map: final norm, patch
    tokens on their grid, bilinear resampling to stride 4, 8, 16 or 32. Class and register tokens
    take part in attention, but heads do not get them.

    Attributes:
        out_indices: index of the last block of each group.
        num_extra_tokens: number of class and register tokens, which stand before the patches.
        output_norm: name of the final norm, which each map passes.
    """

    patch_embed: Any
    out_indices: list[int]
    num_extra_tokens: int
    output_norm: str

    def describe(
        self,
        channels: int,
        layers: Mapping[str, Mapping[str, Any]],
        embedding: Sequence[str],
        output_norm: str,
    ) -> None:
        """Set the attributes that :meth:`init_peft` needs, after ``out_indices``.

        ``layers`` maps the name of each block to its layers by role, see ``BlockSpec``;
        ``embedding`` has the names of the parameters and modules that :meth:`embed` uses.
        """
        self.out_channels = (channels,) * len(self.strides)
        self.block_specs = tuple(
            BlockSpec.of(sum(number > end for end in self.out_indices), channels, name, **roles)
            for number, (name, roles) in enumerate(layers.items())
        )
        self.output_norm = output_norm
        self.parts = {
            **dict.fromkeys(embedding, "embed"),
            **{name: name for name in layers},
            output_norm: output_norm,
        }

    def embed(self, grid: tuple[int, int], images: Tensor) -> Tensor:
        """Embed images (B, 3, H, W) as tokens (B, L, d) with positions on a grid (h, w)."""
        raise NotImplementedError

    def geometry(self, grid: tuple[int, int]) -> Sequence[tuple[Any, ...]]:
        """Return the further arguments of :meth:`attend` in each block, for a grid (h, w)."""
        return [()] * len(self.block_specs)

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[LazyResize, ...]]:
        """Run all parts of the backbone; return the four maps of each task in ``names``."""
        maps: dict[str, list[LazyResize]] = {name: [] for name in names}
        size = (images.shape[2], images.shape[3])  # a slice would be a constant to tracers
        grid, patch = patch_grid(self.patch_embed, images), patch_convolution(self.patch_embed)
        geometry, norm = self.geometry(grid), self.get_submodule(self.output_norm)
        token_grid = TokenGrid(*grid, self.num_extra_tokens)
        streams = self.start_streams(names, images)
        streams.apply("embed", partial(self.embed, grid))
        for level, stride in enumerate(self.strides):
            for index in self.blocks_of(level):
                self.run_block(streams, index, token_grid, *geometry[index])
            shared: list[tuple[Tensor, LazyResize]] = []  # tasks with the same tokens share a map
            tokens_of = streams.end_stage(self.output_norm, norm, level, token_grid)
            for name, tokens in tokens_of.items():
                if not shared or shared[-1][0] is not tokens:
                    on_grid = tokens.reshape(tokens.shape[0], *grid, tokens.shape[2])
                    on_grid = on_grid.permute(0, 3, 1, 2)
                    shared.append((tokens, LazyResize(on_grid, patch.stride, stride, size)))
                maps[name].append(shared[-1][1])
        return {name: tuple(levels) for name, levels in maps.items()}


def group_ends(
    kind: str, out_indices: Sequence[int] | None, depth: int, to_the_last: bool = True
) -> list[int]:
    """Return the indices of the last blocks of the four groups; None makes four equal groups.

    Args:
        kind: name of the backbone's class, for messages.
        out_indices: as the user gave them; they may count from the end.
        depth: number of blocks.
        to_the_last: require the last block to be among them.
    """
    if out_indices is None and depth and depth % 4 == 0:
        return [depth * level // 4 - 1 for level in range(1, 5)]
    given = out_indices if isinstance(out_indices, (list, tuple)) else ()
    given = given if all(isinstance(index, int) for index in given) else ()
    ends = [index + depth if index < 0 else index for index in given]
    last = depth - 1 if to_the_last or not ends else min(ends[-1], depth - 1)
    if len(ends) != 4 or sorted({-1, *ends}) != [-1, *ends] or ends[-1] != last:
        rule = f"must be 4 increasing indices of the {depth} blocks"
        rule += f", the last one {depth - 1}" if to_the_last else ""
        raise InputError(f"{kind}: `out_indices` {rule}, got {out_indices!r}")
    return ends
