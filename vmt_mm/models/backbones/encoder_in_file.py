"""Find the backbone in any checkpoint, by a key that only it has."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from vmt_mm.errors import InputError

#: A key, mostly of the first block's attention, in the files of every known origin.
_KEY = re.compile(
    r"(?:^|\.)(?:"
    r"layers\.0\.blocks\.0\.attn|stages\.0\.blocks\.0\.attn\.w_msa|layers\.0\.attn|"
    r"blocks\.0\.(?:0\.)?attn"
    r")\.(?:qkv|q_proj)\.weight$"
    # Hugging Face; a Swin of torchvision; CLIP and PE, whose text models have no ln_pre
    r"|(?:^|\.)(?:embeddings\.patch_embeddings?(?:\.projection)?|features\.1\.0\.attn\.qkv|ln_pre)"
    r"\.weight$"
)
#: Prefix of a Swin's stage, whose blocks have the keys of a ViT.
_STAGE = re.compile(r"(^|\.)(layers|stages)\.\d+$")
#: Of several backbones in a file, one below these names is taken, in this order.
_TEACHERS = {"teacher", "target_encoder"}
_AVERAGES = {"state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "averaged_model", "ema"}
#: Names of backbones that are taken last.
_STUDENTS = {"student", "momentum_encoder", "encoder_k", "target_generator"}


def find_encoder(content: object, source: str) -> dict[str, Tensor]:
    """Return the tensors of the backbone in a file, without the prefix of their keys.

    Of several different backbones, prefers the teacher of a distillation, then averaged weights,
    then plain weights, and logs the choice. Without known keys, returns the largest state dict.
    """
    dicts = list(_dicts_of_tensors(content, ()))
    if not dicts:
        raise InputError(f"{source}: contains no tensors; expected pretrained weights")
    meta = content.get("meta") if isinstance(content, Mapping) else None
    averaged = isinstance(meta, Mapping) and "mmengine_version" in meta  # in `state_dict`
    places = [place for names, tensors in dicts for place in _places(names, tensors, averaged)]
    if not places:
        return dict(max((tensors for _, tensors in dicts), key=len))
    (rank, text, chosen), *rest = sorted(places, key=lambda place: place[0])
    others = [place for place in rest if not _equal(chosen, place[2])]
    texts = ", ".join(place[1] for place in others)
    if others and others[0][0] == rank:
        hint = "save the right one to a separate file"
        raise InputError(f"{source} contains several backbones, {text} and {texts}; {hint}")
    if others:
        print_log(f"{source} contains several backbones: using {text}, not {texts}", "current")
    return chosen


def _dicts_of_tensors(
    content: object, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every dictionary that contains tensors, with the keys that lead to it."""
    if not isinstance(content, Mapping) or names[-1:] == ("optimizer",):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield names, tensors
    for key, child in content.items():
        yield from _dicts_of_tensors(child, (*names, str(key)))


def _places(
    names: tuple[str, ...], tensors: Mapping[str, Tensor], averaged: bool
) -> Iterator[tuple[int, str, dict[str, Tensor]]]:
    """Yield rank (lowest: preferred), location as text and tensors of each backbone in a dict."""
    matches = ((key, _KEY.search(key)) for key in tensors)
    prefixes = {key[: match.start()] for key, match in matches if match}
    for prefix in sorted(prefix for prefix in prefixes if not _STAGE.search(prefix)):
        start = f"{prefix}." if prefix else ""
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        parts: set[Any] = {*names, *prefix.split(".")}
        ranks = [_TEACHERS, set() if averaged else _AVERAGES]
        rank = next((r for r, words in enumerate(ranks) if parts & words), 2)
        rank += rank == 2 and bool(parts & (_STUDENTS | (_AVERAGES if averaged else set())))
        yield rank, "".join(f"[{name!r}]" for name in names) + start or "the top level", own


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
