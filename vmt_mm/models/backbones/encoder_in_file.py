"""Find an encoder in a file of any training: below which entries and which prefix its keys stand.

Frameworks nest weights in entries (``state_dict``, ``model``, ``teacher``) and put prefixes before
keys (``module.``, ``model.``, ``_orig_mod.``, ``net.``, ``encoder.``, ``backbone.``). None of these
names is asked for: where the first block's attention stands, there stands an encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from torch import Tensor

from vmt_mm.errors import InputError

#: The first block's attention, in the keys of every known origin.
_FIRST_BLOCK = re.compile(
    r"(?:^|\.)(?:"
    r"layers\.0\.blocks\.0\.attn|stages\.0\.blocks\.0\.attn\.w_msa|layers\.0\.attn|"
    r"blocks\.0\.(?:0\.)?attn"
    r")\.qkv\.weight$"
)
#: Of a Swin, whose later stages begin with blocks too.
_WITHIN = re.compile(r"(^|\.)(layers|stages)\.\d+$")
#: Names by which one of several encoders in a file is chosen; the first rule that has one wins.
_CHOICE = (
    ("teacher", "target_encoder"),
    ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "averaged_model"),
)
#: Never chosen where there is another one.
_LAST = ("student", "momentum_encoder", "encoder_k", "target_generator")
#: What other files are, by a key that they have.
_OTHERS = (
    (r"encoder\.layer\.0\.attention\.attention\.", "a Hugging Face ViT or Dinov2"),
    (r"encoder\.layers\.0\.blocks\.0\.attention\.self\.", "a Hugging Face Swin"),
    (r"embeddings\.patch_embeddings\.", "a Hugging Face model"),
    (r"features\.1\.0\.attn\.qkv\.", "a Swin of torchvision"),
    (r"encoder\.layers\.encoder_layer_0\.", "a ViT of torchvision"),
    (r"transformer\.resblocks\.0\.", "a CLIP model"),
    (r"layer1\.0\.conv1\.", "a ResNet"),
    (r"(layers|stages)\.0\.blocks\.0\.attn\.", "a Swin"),
    (r"(layers|blocks)\.0\.attn\.qkv\.", "a ViT"),
)


@dataclass(frozen=True)
class _Place:
    """Where an encoder stands.

    Attributes:
        names: entries of the file, and parts of the prefix, outermost first.
        text: the same in words.
        tensors: without the prefix.
    """

    names: tuple[str, ...]
    text: str
    tensors: Mapping[str, Tensor]

    def rank(self, of_mmengine: bool) -> int:
        """Lower is chosen first."""
        names = set(self.names)
        if of_mmengine and "ema_state_dict" in names:
            return len(_CHOICE) + 1  # there `state_dict` holds the averages
        for rank, words in enumerate(_CHOICE):
            if names & set(words):
                return rank
        return len(_CHOICE) + bool(names & set(_LAST))


def find_encoder(content: object, source: str) -> dict[str, Tensor]:
    """The tensors of the encoder in a file, without the prefix of their keys.

    Of several that differ, the teacher of a distillation is taken, else the average of the
    weights, else the weights; the log says which. Where there is none in known keys, all tensors
    of the file are given.

    Args:
        content: of the file.
        source: its name, for messages.

    Raises:
        InputError: if it holds no tensors, or several encoders between which nothing decides.
    """
    dicts = list(_dicts_of_tensors(content, ()))
    if not dicts:
        raise InputError(f"{source}: holds no tensors")
    places = [place for names, tensors in dicts for place in _places(names, tensors)]
    if not places:
        return dict(max((tensors for _, tensors in dicts), key=len))
    meta = content.get("meta") if isinstance(content, Mapping) else None
    of_mmengine = isinstance(meta, Mapping) and "mmengine_version" in meta
    places.sort(key=lambda place: place.rank(of_mmengine))
    chosen = places[0]
    others = [p for p in places[1:] if not _equal(chosen.tensors, p.tensors)]
    same_rank = [p for p in others if p.rank(of_mmengine) == chosen.rank(of_mmengine)]
    if same_rank:
        raise InputError(
            f"{source} holds several encoders, below {chosen.text} and {same_rank[0].text}; write "
            "the one that is meant to a file of its own"
        )
    if others:
        print_log(
            f"{source} holds several encoders: the one below {chosen.text} is taken, not that "
            f"below {', '.join(place.text for place in others)}",
            "current",
        )
    return dict(chosen.tensors)


def describe_file(state: Mapping[str, Tensor]) -> str:
    """What a file is whose keys the backbone does not know, in words for a message."""
    sample = f"keys like {', '.join(sorted(state)[:3])}"
    for pattern, name in _OTHERS:
        if any(re.search(rf"(^|\.){pattern}", key) for key in state):
            return f"it looks like {name}, which is not supported here; {sample}"
    return sample


def _dicts_of_tensors(
    content: object, names: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary that holds tensors, with the entries that lead to it."""
    if not isinstance(content, Mapping) or names[-1:] == ("optimizer",):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield names, tensors
    for key, child in content.items():
        yield from _dicts_of_tensors(child, (*names, str(key)))


def _places(names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Iterator[_Place]:
    """Every encoder in one dictionary."""
    matches = ((key, _FIRST_BLOCK.search(key)) for key in tensors)
    prefixes = {key[: match.start()] for key, match in matches if match}
    for prefix in sorted(prefix for prefix in prefixes if not _WITHIN.search(prefix)):
        start = f"{prefix}." if prefix else ""
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        parts = (*names, *prefix.split(".")) if prefix else names
        text = "".join(f"[{name!r}]" for name in names) + start
        yield _Place(parts, text or "the top", own)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
