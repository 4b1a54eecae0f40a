"""Build a task's head: one of ours, or any decode head of mmseg."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS


def unread_keys(cfg: Mapping) -> dict[str, str]:
    """Keys of a decode head of mmseg that nothing here would read -> why, and what to set."""
    loss = "a loss is the task's, set tasks.<name>.loss_weight; others are not supported yet"
    why = dict.fromkeys((k for k in cfg if k.startswith("loss")), loss)
    why |= dict.fromkeys(cfg.keys() & {"sampler", "ignore_index"}, loss)
    if "threshold" in cfg:
        why["threshold"] = "the task says what logits mean; its metric tries all thresholds"
    return {key: f"{cfg.get('type')} takes no {key!r} here: {why[key]}" for key in why}


def build_head(cfg: Mapping, in_channels: Sequence[int], out_channels: int) -> nn.Module:
    """Build a head: features (four maps) in, logits (B, out_channels, h, w) out.

    Channels are filled in, those of mmseg's heads by ``in_index`` (all scales, unless given).
    InputError where its config has others, or keys that are not read.
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
                f"head {kind.__name__}: {key}={given!r}, where backbone and task give "
                f"{expected!r}; leave it out"
            )
    # mmseg would warn of what is not read here: a loss's mean, and a threshold of one channel
    defaults["loss_decode"] = dict(type="CrossEntropyLoss", avg_non_ignore=True)
    if out_channels == 1:
        defaults["threshold"] = 0.5
    return MODELS.build(cfg, default_args=defaults)
