"""Frozen tensors: a checkpoint stores only their source file and a checksum."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vmt_mm.checkpoints.keys import AVERAGED, BACKBONE
from vmt_mm.checkpoints.tensor_file import tensors_sha256
from vmt_mm.errors import InputError

#: Key in a checkpoint's ``meta``.
RECORD = "frozen_encoder"


@dataclass(frozen=True)
class FrozenRecord:
    """A checkpoint's record of the frozen tensors that it leaves out."""

    source: str | None  # the `pretrained` that they were loaded from
    sha256: str  # their fingerprint
    tensors: int  # their number

    @classmethod
    def of(cls, model: Any, keys: Collection[str]) -> FrozenRecord:
        """Make the record of these tensors of a model."""
        source = model.backbone.pretrained_path if keys else None
        return cls(source, fingerprint(model, keys), len(keys))

    @classmethod
    def read(cls, meta: Any, file: str) -> FrozenRecord | None:
        """Read the record from the ``meta`` of the checkpoint ``file``; None without one."""
        content = meta.get(RECORD) if isinstance(meta, Mapping) else None
        if content is None:
            return None
        try:
            return cls(content["source"], str(content["sha256"]), int(content["tensors"]))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{file}: damaged file, its meta.{RECORD} is {content!r}") from None


def frozen_keys(model: Any) -> set[str]:
    """Return the keys of frozen parameters that no method added and no training changed."""
    backbone = getattr(model, "backbone", None)
    parameters = backbone.named_parameters() if backbone is not None else ()
    frozen = {key for key, parameter in parameters if not parameter.requires_grad}
    frozen = {BACKBONE + key for key in frozen - set(getattr(backbone, "added_keys", ()))}
    return frozen - getattr(model, "previously_trainable", frozenset())


def keys_left_out(model: Any) -> set[str]:
    """Return the keys that a checkpoint may omit: those of the pretrained file, if unchanged."""
    backbone = getattr(model, "backbone", None)
    if backbone is None or getattr(backbone, "pretrained_path", None) is None:
        return set()
    return frozen_keys(model) - {BACKBONE + key for key in backbone.resized_keys}


def fingerprint(model: Any, keys: Collection[str]) -> str:
    """SHA-256 of these tensors: keys in the backbone, shapes, types and bytes."""
    state = model.state_dict()
    return tensors_sha256({key.removeprefix(BACKBONE): state[key] for key in keys})


def strip_frozen(checkpoint: dict[str, Any], keys: Collection[str], record: FrozenRecord) -> None:
    """Replace the frozen tensors of a checkpoint, and of averages in it, by the record."""
    for key in keys:
        del checkpoint["state_dict"][key]
        checkpoint.get("ema_state_dict", {}).pop(AVERAGED + key, None)
    checkpoint["meta"][RECORD] = asdict(record)


def add_to(checkpoint: Mapping[str, Any], model: Any, keys: Collection[str]) -> None:
    """Add these tensors of a model to a checkpoint, so that hooks see a complete one."""
    own = model.state_dict()
    for part, prefix in (("state_dict", ""), ("ema_state_dict", AVERAGED)):
        state = checkpoint.get(part)
        if isinstance(state, dict):
            state.update({prefix + key: own[key] for key in keys if prefix + key not in state})
