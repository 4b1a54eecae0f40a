"""Turn a pretrained checkpoint of any known origin into a file in the encoder's own keys.

What can be read off the tensors (window, patch, grid, LayerScale, ...) is not asked for; the
result is checked, key by key and shape by shape, against the encoder that it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

from vmt_mm.checkpoints.keys import key_faults
from vmt_mm.errors import InputError
from vmt_mm.models.backbones import swin_checkpoint, vit_checkpoint
from vmt_mm.models.backbones.pretrained import own_state
from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.models.backbones.vit import VisionTransformer
from vmt_mm.registry import MODELS

_BLOCK = "layers.0."


@dataclass(frozen=True)
class Imported:
    """An encoder's checkpoint in its own keys.

    Attributes:
        state: the tensors, with their types.
        origin: who wrote the checkpoint.
        config: of the encoder that it is for, without tasks and method.
    """

    state: Mapping[str, Tensor]
    origin: str
    config: Mapping[str, Any]


def import_swin(state: dict[str, Tensor], source: str, arch: str | None = None) -> Imported:
    """Bring a Swin checkpoint to mmseg's keys: of the official repository, timm, mmpretrain, mmseg.

    Args:
        state: its tensors.
        source: its name, for messages.
        arch: name in ``ARCHITECTURES``; None takes the one whose sizes it has.

    Raises:
        InputError: if it is no Swin, of another architecture, or not whole.
    """
    origin = swin_checkpoint.detect_origin(state, source)
    own = swin_checkpoint.to_mmseg_keys(state)
    table = "stages.{}.blocks.0.attn.w_msa.relative_position_bias_table"
    tables = [own[table.format(n)] for n in range(4) if table.format(n) in own]
    patches = own.get("patch_embed.projection.weight")
    if len(tables) < 4 or patches is None:
        raise InputError(
            f"{source} is no whole Swin checkpoint: its patch embedding or a stage's table of "
            "relative positions is missing"
        )
    found = dict(
        embed_dims=patches.shape[0],
        depths=tuple(_count(own, f"stages.{n}.blocks.") for n in range(4)),
        num_heads=tuple(table.shape[1] for table in tables),
    )
    name = _choose(arch, found, ARCHITECTURES, source)
    config = dict(type="MultiTaskSwin", arch=name)
    window = (isqrt(tables[0].shape[0]) + 1) // 2
    if window != 7:
        config["window_size"] = window
    if patches.shape[-1] != 4:
        config["patch_size"] = patches.shape[-1]
    return _checked(own, origin, config, source, swin_checkpoint.MAY_MISS.search)


def import_vit(state: dict[str, Tensor], source: str, arch: str | None = None) -> Imported:
    """Bring a ViT checkpoint to mmpretrain's keys: of DINOv2's or MAE's, timm, mmpretrain.

    Args:
        state: its tensors.
        source: its name, for messages.
        arch: name in mmpretrain's ``VisionTransformer.arch_zoo``; None takes the one whose sizes
            it has.

    Raises:
        InputError: if it is no ViT, of another architecture, or not whole.
    """
    origin = vit_checkpoint.detect_origin(state, source)
    own = vit_checkpoint.to_mmpretrain_keys(state)
    patches, places = own.get("patch_embed.projection.weight"), own.get("pos_embed")
    if patches is None or places is None or places.ndim != 3 or patches.ndim != 4:
        raise InputError(
            f"{source} is no whole ViT checkpoint: its patch embedding or its position embeddings "
            "are missing"
        )
    width, patch = patches.shape[0], patches.shape[-1]
    found = dict(embed_dims=width, num_layers=_count(own, "layers."))
    gated = f"{_BLOCK}ffn.w12.weight" in own
    if f"{_BLOCK}ffn.layers.0.0.weight" in own:
        found["feedforward_channels"] = own[f"{_BLOCK}ffn.layers.0.0.weight"].shape[0]
    name = _choose(arch, found, VisionTransformer.arch_zoo, source)
    side = isqrt(places.shape[1] - ("cls_token" in own))
    config = dict(type="MultiTaskViT", arch=name, img_size=side * patch, patch_size=patch)
    if "cls_token" not in own:
        config["with_cls_token"] = False
    scaled = f"{_BLOCK}attn.gamma1.weight" in own
    config["layer_scale_init_value"] = 1e-5 if scaled else 0.0
    if gated:
        config["layer_cfgs"] = dict(ffn_type="swiglu_fused")
    if f"{_BLOCK}attn.qkv.bias" not in own:
        config["qkv_bias"] = False
    if "pre_norm.weight" in own:
        config["pre_norm"] = True
    return _checked(own, origin, config, source, lambda key: False)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered modules there are below a prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _choose(
    arch: str | None, found: Mapping[str, Any], known: Mapping[str, Mapping], source: str
) -> str:
    """The architecture asked for, if it has these sizes, or else the one that has them."""
    if arch is not None and arch not in known:
        raise InputError(f"--arch {arch!r} is none of {sorted(known)}")
    fitting = [
        name
        for name, sizes in known.items()
        if all(_plain(sizes[key]) == _plain(value) for key, value in found.items())
    ]
    if arch is not None and arch not in fitting:
        sizes = {key: known[arch][key] for key in found}
        raise InputError(
            f"{source} is no {arch!r}: it has {dict(found)}, {arch!r} {sizes}"
            + (f"; it fits {fitting}" if fitting else "")
        )
    if not fitting:
        raise InputError(f"{source} is of no known architecture, {sorted(known)}: {dict(found)}")
    return arch or max(fitting, key=len)  # of the short and the long name, the long one


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _checked(
    state: Mapping[str, Tensor],
    origin: str,
    config: Mapping[str, Any],
    source: str,
    may_miss: Callable[[str], object],
) -> Imported:
    """Check the tensors against the encoder of this config."""
    encoder = MODELS.build(dict(config, tasks=["any"], peft=dict(type="DecodersOnly")))
    faults = key_faults(own_state(encoder), state, may_miss)
    if faults:
        raise InputError(f"{source} does not fit {dict(config)}: {'; '.join(faults)}")
    return Imported(state, origin, config)
