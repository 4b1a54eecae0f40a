"""Build a task's head: one of ours, or any decode head of mmseg."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS


def build_head(cfg: Mapping, in_channels: Sequence[int], out_channels: int) -> nn.Module:
    """Build a head: features (four maps) in, logits (B, out_channels, h, w) out.

    Channels are filled in. A decode head of mmseg gets them in its own terms: ``num_classes``,
    and ``in_channels`` by its ``in_index`` (all scales, unless given).

    Raises:
        InputError: if the type is unknown.
    """
    cfg = dict(cfg)
    kind = MODELS.get(cfg["type"]) if isinstance(cfg.get("type"), str) else cfg.get("type")
    if kind is None:
        raise InputError(f"head: unknown type {cfg.get('type')!r}")
    if not (inspect.isclass(kind) and issubclass(kind, BaseDecodeHead)):
        return MODELS.build(
            cfg, default_args=dict(in_channels=list(in_channels), out_channels=out_channels)
        )
    index = cfg.setdefault("in_index", list(range(len(in_channels))))
    channels = in_channels[index] if isinstance(index, int) else [in_channels[i] for i in index]
    # a threshold of its own would only make mmseg warn: the task decides what logits mean
    defaults = dict(in_channels=channels, num_classes=out_channels, out_channels=out_channels)
    if out_channels == 1:
        defaults["threshold"] = 0.5
    return MODELS.build(cfg, default_args=defaults)
