"""The frozen encoder of a checkpoint: left out when it is saved, put back when it is loaded.

What is frozen is a copy of the file that ``pretrained`` names. A checkpoint need not repeat it, if
it says which file that was and by what the file's content is told from any other.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from vmt_mm.checkpoints.tensor_file import tensors_sha256
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import locate

_ENCODER, _AVERAGED = "backbone.", "module."
#: Entry of a checkpoint's ``meta``.
RECORD = "frozen_encoder"


@dataclass(frozen=True)
class FrozenRecord:
    """What stands in a checkpoint for the frozen tensors that it does not hold.

    Attributes:
        source: the ``pretrained`` that they came from; None where there are none.
        sha256: their :func:`fingerprint`.
        tensors: how many they are.
    """

    source: str | None
    sha256: str
    tensors: int

    @classmethod
    def of(cls, model: nn.Module, keys: Collection[str], source: str | None) -> FrozenRecord:
        """The record of these tensors of a model."""
        return cls(source, fingerprint(model, keys), len(keys))

    @classmethod
    def read(cls, meta: Any, file: str) -> FrozenRecord | None:
        """The record in a checkpoint's ``meta``; None where there is none.

        Raises:
            InputError: if it is none of this form.
        """
        content = meta.get(RECORD) if isinstance(meta, Mapping) else None
        if content is None:
            return None
        kinds = dict(source=(str, type(None)), sha256=str, tensors=int)
        if not isinstance(content, Mapping) or not all(
            isinstance(content.get(key), kind) and key in content for key, kind in kinds.items()
        ):
            raise InputError(f"{file}: its meta.{RECORD} must hold {list(kinds)}, got {content!r}")
        return cls(**{key: content[key] for key in kinds})

    def as_dict(self) -> dict[str, Any]:
        """Plain types alone."""
        return asdict(self)


def frozen_keys(model: nn.Module) -> set[str]:
    """Keys, in the model, of the encoder's own frozen parameters: what a file can put back.

    What the PEFT method added belongs to the training, even where it is frozen; so does what had
    trained before new tasks joined the model.
    """
    encoder = getattr(model, "backbone", None)
    if encoder is None:
        return set()
    added = getattr(encoder, "added_keys", ())
    frozen = {
        f"{_ENCODER}{key}"
        for key, parameter in encoder.named_parameters()
        if not parameter.requires_grad and key not in added
    }
    return frozen - getattr(model, "previously_trainable", frozenset())


def keys_left_out(model: nn.Module) -> set[str]:
    """Keys that a checkpoint of this model need not hold; empty if no file has them.

    Tensors that were interpolated to the model's sizes are held: another machine may round them
    otherwise.
    """
    encoder = getattr(model, "backbone", None)
    if getattr(encoder, "pretrained_path", None) is None:
        return set()
    return frozen_keys(model) - {f"{_ENCODER}{key}" for key in encoder.resized_keys}


def fingerprint(model: nn.Module, keys: Collection[str]) -> str:
    """SHA-256 over these tensors: keys in the encoder, shapes, types and bytes, in sorted order."""
    state = model.state_dict()
    return tensors_sha256({key.removeprefix(_ENCODER): state[key] for key in keys})


def strip_frozen(checkpoint: dict[str, Any], keys: Collection[str], record: FrozenRecord) -> None:
    """Take frozen tensors out of a checkpoint that is to be saved, and note what they were.

    Where an average of the weights is kept beside them, it loses them too: the average of what
    never changes is that. Should it differ all the same, everything stays.

    Args:
        checkpoint: with ``meta`` and ``state_dict``; changed in place.
        keys: what to take out.
        record: of these tensors.
    """
    state, average = checkpoint["state_dict"], checkpoint.get("ema_state_dict", {})
    doubles = {key: average[_AVERAGED + key] for key in keys if _AVERAGED + key in average}
    if not all(torch.equal(state[key].cpu(), value.cpu()) for key, value in doubles.items()):
        print_log(
            "the average of the frozen weights is not what they are: the checkpoint holds them",
            "current",
            logging.WARNING,
        )
        return
    for key in keys:
        del state[key]
        average.pop(_AVERAGED + key, None)
    checkpoint["meta"][RECORD] = record.as_dict()


def restore_frozen(
    model: nn.Module, keys: Collection[str], record: FrozenRecord | None, file: str
) -> None:
    """Load the frozen encoder that a checkpoint does not hold.

    It comes from the file that the model's config declares, or else from the one that the
    checkpoint names. Nothing is loaded where the model has it already.

    Args:
        model: the model.
        keys: the frozen tensors that are wanted.
        record: what the checkpoint says of them; None in one that says nothing.
        file: the checkpoint, for messages.

    Raises:
        InputError: if there is no such file, or it holds another encoder than the checkpoint was
            trained with; the message gives both. The model is not to be used then.
    """
    encoder = model.backbone
    if record and encoder.pretrained_path and fingerprint(model, keys) == record.sha256:
        return
    source = _find(encoder.pretrained, record, file)
    encoder.load_pretrained(source)
    if record is None:
        return
    found = fingerprint(model, keys)
    if found != record.sha256:
        encoder.pretrained_path = None
        raise InputError(
            f"{file} was trained on the frozen encoder of {record.source!r} (SHA-256 "
            f"{record.sha256[:12]}...), and {source!r} holds another one ({found[:12]}...); set "
            "`pretrained` to the file that it was trained with"
        )


def add_to(checkpoint: Mapping[str, Any], model: nn.Module, keys: Collection[str]) -> None:
    """Give a checkpoint the frozen tensors of a model, so that hooks find it as if it held them."""
    own = model.state_dict()
    for part, prefix in (("state_dict", ""), ("ema_state_dict", _AVERAGED)):
        state = checkpoint.get(part)
        if isinstance(state, dict):
            state.update({prefix + key: own[key] for key in keys if prefix + key not in state})


def _find(declared: str | None, record: FrozenRecord | None, file: str) -> str:
    """The first of the declared and the recorded file that is there."""
    trained_with = f"{record.source!r}" if record else "the file that it was trained with"
    names = [name for name in (declared, record and record.source) if name]
    if not names:
        raise InputError(
            f"{file} holds no weights of the frozen encoder, and the config declares no file of "
            f"them: set `pretrained` to {trained_with}"
        )
    problem = None
    for name in dict.fromkeys(names):
        try:
            locate(name)
        except InputError as error:
            problem = problem or error
            continue
        if problem:
            print_log(f"{problem}; taken from {name!r} instead", "current", logging.WARNING)
        return name
    raise InputError(
        f"{file} holds no weights of the frozen encoder, which are those of {trained_with}: "
        f"{problem}"
    ) from problem
