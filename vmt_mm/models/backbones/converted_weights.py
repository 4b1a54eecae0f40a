"""Convert a pretrained checkpoint of any origin to the backbone's keys, and infer its config."""

from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

from torch import Tensor

from vmt_mm.checkpoints.keys import key_faults
from vmt_mm.errors import InputError
from vmt_mm.models.backbones import origins
from vmt_mm.models.backbones.swin import ARCHITECTURES
from vmt_mm.models.backbones.vit import VisionTransformer
from vmt_mm.registry import MODELS


class Imported(NamedTuple):
    """Tensors by the backbone's keys, the origin of the file, and the backbone's config."""

    state: Mapping[str, Tensor]
    origin: str
    config: Mapping[str, Any]


def import_swin(state: dict[str, Tensor], source: str, arch: str | None = None) -> Imported:
    """Convert a Swin checkpoint of any origin to mmseg's keys; ``arch`` None is inferred."""
    origin = origins.swin_origin(state, source)
    own = origins.to_mmseg_keys(state, origin)
    table = "stages.{}.blocks.0.attn.w_msa.relative_position_bias_table"
    try:
        tables = [own[table.format(n)] for n in range(4)]
        width = own["patch_embed.projection.weight"].shape[0]
    except KeyError as error:
        raise InputError(f"{source} is an incomplete Swin checkpoint: {error} is missing") from None
    depths = tuple(_count(own, f"stages.{n}.blocks.") for n in range(4))
    found = dict(embed_dims=width, depths=depths, num_heads=tuple(t.shape[1] for t in tables))
    name = _choose(arch, found, ARCHITECTURES, source)
    config: dict[str, Any] = dict(type="MultiTaskSwin", arch=name)
    if (window := (isqrt(tables[0].shape[0]) + 1) // 2) != 7:
        config["window_size"] = window
    return _checked(Imported(own, origin, config), source)


def import_vit(state: dict[str, Tensor], source: str, arch: str | None = None) -> Imported:
    """Convert a ViT checkpoint of any origin to mmpretrain's keys; ``arch`` None is inferred."""
    origin = origins.vit_origin(state, source)
    own = origins.to_mmpretrain_keys(state)
    try:
        width, _, _, patch = own["patch_embed.projection.weight"].shape
        positions = own["pos_embed"].shape[1] - ("cls_token" in own)
    except KeyError as error:
        raise InputError(f"{source} is an incomplete ViT checkpoint: {error} is missing") from None
    found = dict(embed_dims=width, num_layers=_count(own, "layers."))
    if "layers.0.ffn.layers.0.0.weight" in own:
        found["feedforward_channels"] = own["layers.0.ffn.layers.0.0.weight"].shape[0]
    config: dict[str, Any] = dict(
        type="MultiTaskViT",
        arch=_choose(arch, found, VisionTransformer.arch_zoo, source),
        img_size=isqrt(positions) * patch,
        patch_size=patch,
        layer_scale_init_value=1e-5 if "layers.0.attn.gamma1.weight" in own else 0.0,
    )
    config |= {} if "cls_token" in own else dict(with_cls_token=False)
    if "layers.0.ffn.w12.weight" in own:
        config["layer_cfgs"] = dict(ffn_type="swiglu_fused")
    config |= {} if "layers.0.attn.qkv.bias" in own else dict(qkv_bias=False)
    config |= dict(pre_norm=True) if "pre_norm.weight" in own else {}
    return _checked(Imported(own, origin, config), source)


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the numbered modules below a prefix."""
    return len({k.removeprefix(prefix).split(".")[0] for k in state if k.startswith(prefix)})


def _choose(
    arch: str | None, found: Mapping[str, Any], known: Mapping[str, Mapping], source: str
) -> str:
    """Return ``arch`` if it has the sizes ``found``; None returns the one that has them."""
    if arch is not None and arch not in known:
        raise InputError(f"--arch must be one of {sorted(known)}, got {arch!r}")
    fitting = [n for n, sizes in known.items() if all(sizes[k] == v for k, v in found.items())]
    if not fitting or arch not in (None, *fitting):
        kind = repr(arch) if arch else f"any known architecture {sorted(known)}"
        raise InputError(f"{source} does not match {kind}: it has {found}, which match {fitting}")
    return arch or max(fitting, key=len)  # of two aliases, the long one


def _checked(imported: Imported, source: str) -> Imported:
    """Check the tensors against a backbone built from this config."""
    backbone = MODELS.build(dict(imported.config, tasks=["any"]))
    if faults := key_faults(backbone.state_dict(), imported.state, origins.swin_may_miss):
        raise InputError(f"{source} does not fit {imported.config}: {'; '.join(faults)}")
    return imported
