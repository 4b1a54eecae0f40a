"""Building blocks of naive transliterations, on mmseg's original Swin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from methods import TASKS
from mmseg.models.backbones import SwinTransformer
from torch import Tensor, nn

from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.registry import MODELS


def stock_swin(encoder: nn.Module, replace: dict[str, Tensor] | None = None) -> SwinTransformer:
    """mmseg's Swin-nano in float64 with the frozen backbone's weights, some of them replaced."""
    stock = SwinTransformer(**ARCHITECTURES["nano"]).double()
    stock.eval()  # returns None in mmseg
    state = {k: v for k, v in encoder.state_dict().items() if k not in encoder.added_keys}
    stock.load_state_dict({**state, **(replace or {})})
    return stock


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over the last dimension."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * weight + bias


def apply_mlp(block: nn.Module, y: Tensor) -> Tensor:
    """MLP(LN2(y))."""
    first, second = block.ffn.layers[0][0], block.ffn.layers[1]
    hidden = F.gelu(block.norm2(y) @ first.weight.T + first.bias)
    return hidden @ second.weight.T + second.bias


def to_maps(tokens: Tensor, hw: tuple[int, int]) -> Tensor:
    """(B, L, C) to (B, C, H, W)."""
    return tokens.reshape(len(tokens), *hw, -1).permute(0, 3, 1, 2)


Change = Callable[[int, Tensor], Tensor]
#: (index of the block, 'attn' or 'mlp', stream after this residual sum) -> the adapted stream.
Adapt = Callable[[int, str, Tensor], Tensor]


def run_stock(
    stock: SwinTransformer,
    images: Tensor,
    after_attn: Change = lambda _, out: out,
    after_mlp: Change = lambda _, out: out,
    parallel_to_mlp: Change = lambda _, y: torch.zeros_like(y),
    adapt: Adapt = lambda _, __, x: x,
) -> list[Tensor]:
    """The four feature maps of one pass, with additions in every block."""
    maps, number = [], 0
    x, hw = stock.patch_embed(images)
    for j, stage in enumerate(stock.stages):
        for block in stage.blocks:
            y = x + after_attn(number, block.attn(block.norm1(x), hw))
            y = adapt(number, "attn", y)
            x = y + after_mlp(number, apply_mlp(block, y)) + parallel_to_mlp(number, y)
            x = adapt(number, "mlp", x)
            number += 1
        maps.append(to_maps(getattr(stock, f"norm{j}")(x), hw))
        if stage.downsample is not None:
            x, hw = stage.downsample(x, hw)
    return maps


def run_plain(
    stock: Any,
    images: Tensor,
    change: Callable[[str], Change],
    extra: int,
    adapt: Adapt = lambda _, __, x: x,
) -> list[Tensor]:
    """Tokens of the four levels of the original ViT, with additions in every block."""
    blocks: Any
    blocks, start, levels = getattr(stock, "layers", None) or stock.blocks, [], []
    handle = blocks[0].register_forward_pre_hook(
        lambda _, inputs, options: start.extend((*inputs, *options.values())), with_kwargs=True
    )
    stock(images)
    handle.remove()
    x, rope = start[0], [value for value in start[1:] if isinstance(value, Tensor)]
    for index, block in enumerate(blocks):
        if rope:
            y = x + change("after_attn")(index, block.gamma_1 * block.attn(block.norm1(x), *rope))
            y = adapt(index, "attn", y)
            out = block.gamma_2 * block.mlp(block.norm2(y))
        else:
            y = x + change("after_attn")(index, block.attn(block.ln1(x)))
            y = adapt(index, "attn", y)
            out = block.ffn.layers(block.ln2(y)) * block.ffn.gamma2.weight
        x = y + change("after_mlp")(index, out) + change("parallel")(index, y)
        x = adapt(index, "mlp", x)
        if index in (0, 1, 3, 4):
            levels.append((stock.norm if rope else stock.ln1)(x)[:, extra:])
    return levels


def build(taps: str = "stage", **peft: Any) -> Any:
    """A backbone with random trainable parameters."""
    encoder = MODELS.build(
        dict(type="MultiTaskSwin", arch="nano", tasks=list(TASKS), allow_random_backbone=True,
             peft=peft, taps=taps)
    )  # fmt: skip
    encoder.init_weights()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return encoder.double().eval()


def check(encoder: nn.Module, expected: Callable[[Tensor, str], list[Tensor]]) -> None:
    """Compare a backbone with ``expected(images, task)``, which returns four feature maps."""
    images = torch.randn(2, 3, 44, 60, dtype=torch.float64)
    with torch.no_grad():
        features = encoder(images)
        for task in TASKS:
            for own, theirs in zip(features[task], expected(images, task), strict=True):
                assert (own - theirs).abs().max() <= 1e-10 * theirs.abs().max()
