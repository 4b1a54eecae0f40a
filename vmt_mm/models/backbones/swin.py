"""Swin Transformer with a PEFT method, built from mmseg's modules.

Notation: B images, L = H W tokens, d channels, h heads, n windows per image, N tokens per window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmseg.models.backbones import SwinTransformer
from torch import Tensor, nn

from vmt_mm.errors import InputError, refuse_unread
from vmt_mm.models.backbones.origins import load_swin
from vmt_mm.models.backbones.peft_backbone import PEFTBackbone, embed_patches, patch_grid
from vmt_mm.models.backbones.task_streams import TaskStreams
from vmt_mm.peft import BlockSpec, PEFTMethod, TokenGrid
from vmt_mm.registry import MODELS
from vmt_mm.utils.compat import is_compiling, is_exporting, take_first

#: nano (0.9 M parameters) is specific to this package; the others are from the Swin paper.
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

#: mmseg's attention mask for two tokens that only the cyclic shift made neighbours.
_APART = -100.0


@MODELS.register_module()
class MultiTaskSwin(PEFTBackbone, SwinTransformer):
    """Swin Transformer with four feature maps per task; its PEFT method decides what is trained.

    https://arxiv.org/abs/2103.14030. State-dict keys are mmseg's, plus those of the method.

    >>> backbone = MultiTaskSwin(["semseg", "depth"], peft=dict(type="VMTAdapter"))
    >>> backbone(images)["depth"]  # (B, 3, H, W) -> four maps of strides 4, 8, 16, 32

    Args:
        tasks: names of the tasks.
        arch: "nano", "tiny", "small", "base" or "large".
        peft: config of the PEFT method; None adapts nothing.
        pretrained: frozen weights: path, URL, or ``vmt_mm://``, ``mmpretrain://`` or ``timm://NAME``.
        allow_random_backbone: accept a backbone without pretrained weights.
        with_cp: recompute each block in the backward pass instead of keeping its activations.
        drop_path_rate: stochastic depth, without effect in frozen layers.
        taps: "stage": maps are taken at the end of each stage, after its output norm. "merged":
            after the patch merging that follows, without output norms, as in MTLoRA: strides 8, 16,
            32, 32, and the channels of the next stage.
        kwargs: of mmseg's ``SwinTransformer``, such as ``window_size`` and ``in_channels``.
    """

    load_frozen = load_swin
    unread = dict(
        PEFTBackbone.unread,
        use_abs_pos_embed="only relative positions are supported",
        out_indices="heads always get all four stages",
        strides="the strides are always 4, 8, 16 and 32",
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
        taps: str = "stage",
        **kwargs: Any,
    ) -> None:
        if taps not in ("stage", "merged"):
            raise InputError(f"MultiTaskSwin: `taps` must be 'stage' or 'merged', got {taps!r}")
        if arch not in ARCHITECTURES:
            raise InputError(f"MultiTaskSwin: `arch` must be in {[*ARCHITECTURES]}, got {arch!r}")
        refuse_unread(MultiTaskSwin, kwargs)
        sizes = {**ARCHITECTURES[arch], **kwargs}
        super().__init__(drop_path_rate=drop_path_rate, **sizes)
        self.with_cp, self.taps = with_cp, taps
        widths = self.out_channels = tuple(self.num_features)
        if taps == "merged":
            self.strides, self.out_channels = (8, 16, 32, 32), (*widths[1:], widths[-1])
            for norm in (getattr(self, f"norm{stage}") for stage in range(4)):
                for name, value in [*norm.named_parameters()]:  # not used, so never trained
                    delattr(norm, name)
                    norm.register_buffer(name, value.detach())
        self.block_specs = tuple(
            BlockSpec.of(stage, channels, f"stages.{stage}.blocks.{number}", **_LAYERS)
            for stage, channels in enumerate(widths)
            for number in range(sizes["depths"][stage])
        )
        around = [f"stages.{n}.downsample" for n in range(3)] + [f"norm{n}" for n in range(4)]
        names = ["patch_embed", *around, *(block.name for block in self.block_specs)]
        self.parts = {name: name for name in names}
        self.init_peft(tasks, peft, pretrained, allow_random_backbone)
        if taps == "merged" and type(self.peft).task_features is not PEFTMethod.task_features:
            kind = type(self.peft).__name__
            problem = f"{kind} adds features of the stage to its map; `taps` must be 'stage'"
            raise InputError(f"MultiTaskSwin: {problem}, got {taps!r}")

    def forward_features(
        self, images: Tensor, names: Sequence[str]
    ) -> dict[str, tuple[Tensor, ...]]:
        """Run all parts of the backbone; return the four maps of each task in ``names``."""
        maps: dict[str, list[Tensor]] = {name: [] for name in names}
        hw_shape = patch_grid(self.patch_embed, images)
        streams = self.start_streams(names, images)
        streams.apply("patch_embed", self._embed)
        for stage in range(4):
            grid = TokenGrid(*hw_shape)
            for index in self.blocks_of(stage):
                self.run_block(streams, index, grid, hw_shape)
            if self.taps == "stage":
                self._take(streams, stage, hw_shape, self.get_submodule(f"norm{stage}"), maps)
            if stage < 3:
                part = f"stages.{stage}.downsample"
                streams.apply(part, partial(self.merge_patches, self.get_submodule(part), hw_shape))
                hw_shape = ((hw_shape[0] + 1) // 2, (hw_shape[1] + 1) // 2)
            if self.taps == "merged":
                self._take(streams, stage, hw_shape, nn.Identity(), maps)
        return {name: tuple(levels) for name, levels in maps.items()}

    def _take(
        self,
        streams: TaskStreams,
        stage: int,
        hw_shape: tuple[int, int],
        norm: nn.Module,
        maps: dict[str, list[Tensor]],
    ) -> None:
        """End a stage: append its map (B, C, H, W) to those of each task."""
        tokens_of = streams.end_stage(f"norm{stage}", norm, stage, TokenGrid(*hw_shape))
        for name, tokens in tokens_of.items():
            # channels-last: the heads' linear layers need no copy
            on_grid = tokens.reshape(tokens.shape[0], *hw_shape, tokens.shape[2])
            maps[name].append(on_grid.permute(0, 3, 1, 2))

    def _embed(self, images: Tensor) -> Tensor:
        return self.drop_after_pos(embed_patches(self.patch_embed, images))

    def attend(self, block: Any, x: Tensor, *geometry: Any) -> Tensor:
        """Run the attention of a block on the tokens x (B, L, d) of a map H x W."""
        return shifted_window_attention(block.attn, x, *geometry)

    def merge_patches(self, merging: Any, hw_shape: tuple[int, int], x: Tensor) -> Tensor:
        """Merge patches as mmseg does, with one copy: (B, L, d) of a map H x W to (B, L', 2 d)."""
        (height, width), channels = hw_shape, merging.in_channels
        high, wide = (height + 1) // 2, (width + 1) // 2
        x = pad_map(x.reshape(x.shape[0], height, width, channels), 2 * high, 2 * wide)
        x = x.reshape(x.shape[0], high, 2, wide, 2, channels)
        # channel order of nn.Unfold: the four pixels of each channel in a row
        x = x.permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], high * wide, 4 * channels)
        return merging.reduction(x if merging.norm is None else merging.norm(x))


class Windows(NamedTuple):
    """Partition of the tokens of B maps into windows, grouped by attention mask.

    ``order`` (B n N,) lists the tokens window by window; ``inverse`` is its inverse permutation.
    Each group has its number of windows, and a mask (N, N) or (B n, 1, N, N), or None.
    """

    order: Tensor
    inverse: Tensor
    sizes: tuple[int, ...]
    masks: tuple[Tensor | None, ...]


@lru_cache(maxsize=128)
def arrange(
    batch: int, height: int, width: int, side: int, shift: int, device: torch.device
) -> Windows:
    """Partition B maps of height x width tokens, rolled by ``shift``, into side x side windows."""
    rows, columns = height // side, width // side
    places = torch.arange(batch * height * width, device=device)
    rolled = places.view(batch, height, width).roll((-shift, -shift), (1, 2))
    cut = rolled.view(batch, rows, side, columns, side).transpose(2, 3)
    groups: list[Tensor] = [cut]
    masks: list[Tensor | None] = [None]
    if shift:  # tokens rolled in from the other border are in the last row and column of windows
        # integers, since inductor cannot compile a comparison of booleans (PyTorch 2.12)
        beyond = (torch.arange(side, device=device) >= side - shift).long()
        row, column = (axis.flatten() for axis in torch.meshgrid(beyond, beyond, indexing="ij"))
        regions = (0 * row, column, row, 2 * row + column)
        apart = [_APART * (region[:, None] != region).float() for region in regions]
        if is_exporting():
            last = [(torch.arange(x, device=device) >= x - 1).long() for x in (rows, columns)]
            kind = (2 * last[0][:, None] + last[1]).flatten().repeat(batch)
            masks = [torch.stack(apart)[kind][:, None]]
        else:
            groups = [cut[:, :-1, :-1], cut[:, :-1, -1:], cut[:, -1:, :-1], cut[:, -1:, -1:]]
            masks = [None, *apart[1:]]
    order = torch.cat([group.flatten() for group in groups])
    inverse = torch.zeros_like(order).scatter(0, order, places)
    filled = [(g.numel() // side**2, m) for g, m in zip(groups, masks, strict=True) if g.numel()]
    return Windows(order, inverse, *zip(*filled, strict=True))


class _Permute(torch.autograd.Function):
    """Permute rows; unlike that of indexing, the backward pass is a gather, not a scatter-add.

    Further dimensions before the rows are kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        """Permute the rows of x (..., R, d)."""
        ctx.save_for_backward(inverse)
        return x.index_select(-2, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Permute the gradients back."""
        return grad.index_select(-2, *ctx.saved_tensors), None, None


def _permute(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return _Permute.apply(x, order, inverse) if x.requires_grad else x.index_select(-2, order)


def pad_map(x: Tensor, high: int, wide: int) -> Tensor:
    """Pad a map (B, H, W, d) with zeros at the bottom and right to (B, high, wide, d)."""
    below, right = high - x.shape[1], wide - x.shape[2]
    return F.pad(x, (0, 0, 0, right, 0, below)) if is_exporting() or below or right else x


def shifted_window_attention(attn: Any, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
    """Compute mmseg's ``ShiftWindowMSA`` on the tokens (B, L, d) of a map H x W, but faster.

    One gather both rolls and partitions the map. It groups windows by mask: four groups, each with
    one (N, N) mask. An exported model has a single group, as its sizes may be symbolic.
    """
    (height, width), inner, side = hw_shape, attn.w_msa, attn.window_size
    batch, _, channels = x.shape
    # no remainder: ONNX's shape inference does not support it
    high, wide = ((length + side - 1) // side * side for length in hw_shape)
    traced = is_compiling() or is_exporting()  # symbolic sizes cannot be cache keys
    place: Any = arrange.__wrapped__ if traced else arrange
    windows = place(batch, high, wide, side, attn.shift_size, x.device)
    # padding takes part in attention, as in mmseg
    x = pad_map(x.reshape(batch, height, width, channels), high, wide)
    x = _permute(x.reshape(-1, channels), windows.order, windows.inverse)
    x = _attend_within(inner, x.view(-1, side * side, channels), windows)
    rows, x = batch * high * wide, inner.proj_drop(inner.proj(x))
    # streams of the layer, see `PEFTMethod.tails`: all have the same order of windows
    streams = getattr(inner.proj, "streams", 1)
    x = x.view(rows, channels) if streams == 1 else x.view(streams, rows, channels)
    x = _permute(x, windows.inverse, windows.order).view(streams * batch, high, wide, channels)
    x = take_first(take_first(x, 1, height), 2, width)
    return attn.drop(x.reshape(streams * batch, height * width, channels))


def _attend_within(attn: Any, x: Tensor, windows: Windows) -> Tensor:
    """Attend within each window, (B n, N, d) to (B n, N, d), without the output projection."""
    count, tokens, channels = x.shape
    bias = attn.relative_position_bias_table[attn.relative_position_index.view(-1)]
    bias = bias.view(1, tokens, tokens, -1).permute(0, 3, 1, 2).contiguous()
    qkv = attn.qkv(x).view(count, tokens, 3, attn.num_heads, -1)
    parts = qkv.split(windows.sizes) if len(windows.sizes) > 1 else [qkv]
    dropout, outputs = attn.attn_drop.p if attn.attn_drop.training else 0.0, []
    default = (attn.embed_dims // attn.num_heads) ** -0.5
    scale = None if attn.scale == default else attn.scale  # PyTorch 2.1 exports None only
    for part, mask in zip(parts, windows.masks, strict=True):
        query, key, value = part.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (bias if mask is None else bias + mask).to(query.dtype)
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=scores, dropout_p=dropout, scale=scale
        )
        outputs.append(out.transpose(1, 2).reshape(-1, tokens, channels))
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
