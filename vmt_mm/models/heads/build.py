"""Build the head of a task: one of this package, or any decode head of mmseg."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS


def unread_keys(cfg: Mapping) -> dict[str, str]:
    """Map keys of an mmseg head that have no effect here to the reason, and what to set."""
    given = cfg.get("loss_decode", dict(type="CrossEntropyLoss"))
    losses = [dict(x) for x in (given if isinstance(given, (list, tuple)) else [given])]
    for loss in losses if cfg.get("sampler") else ():
        if loss.get("type") == "CrossEntropyLoss":
            loss["sampler"] = dict(cfg["sampler"])
    keys = [*(key for key in cfg if key.startswith("loss")), "sampler"]
    why = dict.fromkeys(keys, f"set tasks.<name>.loss={losses}")
    why["ignore_index"] = "pixels of value 255 are ignored; set them in the label files"
    why["threshold"] = "the task interprets the logits; its metric tries all thresholds"
    said = f"{cfg.get('type')}: argument %r has no effect: %s"
    return {key: said % (key, why[key]) for key in why if key in cfg}


def build_head(cfg: Mapping, in_channels: Sequence[int], out_channels: int) -> nn.Module:
    """Build a head that maps four feature maps to logits (B, out_channels, h, w).

    Sets the channels; mmseg's heads get those of the maps in ``in_index``, by default all four.
    Raises InputError for an unknown type, other channels, and keys without effect.
    """
    cfg = dict(cfg)
    kind = MODELS.get(cfg["type"]) if isinstance(cfg.get("type"), str) else cfg.get("type")
    if kind is None:
        raise InputError(f"head: unknown type {cfg.get('type')!r}")
    if not (inspect.isclass(kind) and issubclass(kind, BaseDecodeHead)):
        channels = dict(in_channels=list(in_channels), out_channels=out_channels)
        return MODELS.build(cfg, default_args=channels)
    if unread := unread_keys(cfg):
        raise InputError(f"head: {next(iter(unread.values()))}")
    index = cfg.setdefault("in_index", list(range(len(in_channels))))
    own = in_channels[index] if isinstance(index, int) else [in_channels[i] for i in index]
    defaults: dict[str, Any] = dict(
        in_channels=own, num_classes=out_channels, out_channels=out_channels
    )
    for key, expected in defaults.items():
        given = cfg.get(key, expected)
        if (list(given) if isinstance(given, tuple) else given) != expected:
            raise InputError(
                f"head {kind.__name__}: `{key}` must be {expected!r}, as backbone and task set it, "
                f"got {given!r}; remove `{key}`"
            )
    # without these, mmseg warns about settings that have no effect here
    defaults["loss_decode"] = dict(type="CrossEntropyLoss", avg_non_ignore=True)
    if out_channels == 1:
        defaults["threshold"] = 0.5
    return MODELS.build(cfg, default_args=defaults)
