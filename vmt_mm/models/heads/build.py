"""Build a task's head: one of ours, or any decode head of mmseg."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import nn

from vmt_mm.errors import InputError
from vmt_mm.registry import MODELS

#: Arguments of mmseg's heads that serve its own training alone.
_OF_LOSS = ("sampler", "ignore_index")
_CHANNELS = ("in_channels", "num_classes", "out_channels")


def unread_keys(cfg: Mapping) -> dict[str, str]:
    """Keys of a decode head of mmseg that nothing here would read -> why, and what to set."""
    why = {
        key: "a task's loss is the task's, set tasks.<name>.loss_weight and its other options; "
        "other losses, class weights and samplers of pixels are not supported yet"
        for key in cfg
        if key.startswith("loss") or key in _OF_LOSS
    }
    if "threshold" in cfg:
        why["threshold"] = "the task says what logits mean; its metric tries all thresholds"
    return {
        key: f"{cfg.get('type')} takes no {key!r} here: {reason}" for key, reason in why.items()
    }


def build_head(cfg: Mapping, in_channels: Sequence[int], out_channels: int) -> nn.Module:
    """Build a head: features (four maps) in, logits (B, out_channels, h, w) out.

    Channels are filled in. A decode head of mmseg gets them in its own terms: ``num_classes``,
    and ``in_channels`` by its ``in_index`` (all scales, unless given).

    Raises:
        InputError: if the type is unknown, or a decode head of mmseg is given what would not be
            read, or other channels than the encoder's and the task's.
    """
    cfg = dict(cfg)
    kind = MODELS.get(cfg["type"]) if isinstance(cfg.get("type"), str) else cfg.get("type")
    if kind is None:
        raise InputError(f"head: unknown type {cfg.get('type')!r}")
    if not (inspect.isclass(kind) and issubclass(kind, BaseDecodeHead)):
        return MODELS.build(
            cfg, default_args=dict(in_channels=list(in_channels), out_channels=out_channels)
        )
    if unread := unread_keys(cfg):
        raise InputError(f"head: {next(iter(unread.values()))}")
    index = cfg.setdefault("in_index", list(range(len(in_channels))))
    channels = in_channels[index] if isinstance(index, int) else [in_channels[i] for i in index]
    defaults = dict(in_channels=channels, num_classes=out_channels, out_channels=out_channels)
    for key in _CHANNELS:
        own = cfg.get(key, defaults[key])
        if _plain(own) != _plain(defaults[key]):
            raise InputError(
                f"head {kind.__name__}: {key}={own!r}, where encoder and task give "
                f"{defaults[key]!r}; leave it out"
            )
    # mmseg would warn of what is not read here: a loss's mean, and a threshold of one channel
    defaults["loss_decode"] = dict(type="CrossEntropyLoss", avg_non_ignore=True)
    if out_channels == 1:
        defaults["threshold"] = 0.5
    return MODELS.build(cfg, default_args=defaults)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value
