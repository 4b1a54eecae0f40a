"""Adapter files: take what a training added out of its checkpoint, and put it on the encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import vmt_mm
from vmt_mm.checkpoints.adapter_file import Adapter, is_adapter_file, read_adapter, write_adapter
from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import RECORD, FrozenRecord, frozen_keys, keys_left_out
from vmt_mm.checkpoints.newest import LAST_VALIDATION, VALIDATED
from vmt_mm.config.dump import config_text, plain_config
from vmt_mm.config.files import files_read
from vmt_mm.config.load import load_config
from vmt_mm.config.safe_types import check_types
from vmt_mm.errors import InputError
from vmt_mm.loading.model import describe, load_model
from vmt_mm.registry import MODELS
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs

__all__ = [
    "build_model",
    "config_of",
    "export_adapter",
    "is_adapter_file",
    "load_adapter",
    "merge_adapter",
]

#: Of one run, and of no use to another.
_OF_RUN = ("work_dir", "load_from", "resume", "launcher", "experiment_name")
_RECOMPUTED = "relative_position_index"


def load_adapter(path: str | Path, pretrained: str | None = None, device: str = "cpu") -> nn.Module:
    """Put an adapter file on its frozen encoder.

    Nothing of the file is run: its config is JSON, and may name registered classes alone. Import
    the module of a class of your own before.

    Args:
        path: an adapter file, as ``tools/model_converters/export_adapter.py`` writes it.
        pretrained: file of the frozen encoder; None takes the one that the adapter names.
        device: of the model.

    Returns:
        The model in eval mode. ``model.cfg`` is the config that it was trained with,
        ``model.dataset_meta`` task -> ``dict(classes=..., palette=...)``.

    Raises:
        InputError: if the file is missing, damaged or no adapter, its config builds no model, or
            the encoder is missing or another one than it was trained with.
    """
    adapter = read_adapter(path)
    cfg = config_of(adapter.config, str(path))
    model = build_model(cfg, str(path), pretrained)
    load_model(model, adapter.as_checkpoint(), str(path), describe(model, cfg.model))
    model.cfg = cfg
    model.dataset_meta = {task: dict(meta) for task, meta in adapter.dataset_meta.items()}
    return model.to(device).eval()


def export_adapter(cfg: Config, checkpoint: str | Path, out: Path, half: bool = False) -> Adapter:
    """Write what a training added to its frozen encoder to one file.

    Args:
        cfg: the training's config.
        checkpoint: of that training, with or without the frozen encoder.
        out: file to write, ``.safetensors``.
        half: round parameters to float16; running statistics stay as they are.

    Returns:
        What was written.

    Raises:
        InputError: if the checkpoint does not fit the config, the frozen encoder is none that
            ``pretrained`` names, or a number is too large for float16.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: an adapter file's name must end with .safetensors")
    check_file_target(out)
    cfg = load_config(cfg, training=False)
    check_outputs(dict(out=out), [checkpoint, *files_read(cfg)])
    model = build_model(cfg, cfg.filename or "the config")
    content = read_checkpoint(str(checkpoint))
    load_model(model, content, str(checkpoint), describe(model, cfg.model))
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    frozen = _frozen_record(model, str(checkpoint))
    absent = keys_left_out(model)
    tensors = {
        key: value
        for key, value in tensors.items()
        if key not in absent and not key.endswith(_RECOMPUTED)
    }
    if half:
        tensors = _to_half(tensors, dict(model.named_parameters()))
    adapter = Adapter(
        tensors=tensors,
        config=_portable(cfg, frozen.source),
        description=describe(model, cfg.model),
        frozen=frozen.as_dict(),
        dataset_meta=_dataset_meta(model, content),
        metrics=_metrics(content, Path(checkpoint)),
        version=vmt_mm.__version__,
    )
    write_adapter(out, adapter)
    return adapter


def merge_adapter(path: str | Path, out: Path, pretrained: str | None = None) -> nn.Module:
    """Write an adapter and its encoder to one checkpoint, which needs no other file.

    Args:
        path: an adapter file.
        out: file to write, ``.pth``.
        pretrained: file of the frozen encoder; None takes the one that the adapter names.

    Returns:
        The model.

    Raises:
        InputError: see :func:`load_adapter`.
    """
    if out.suffix != ".pth":
        raise InputError(f"{out}: a checkpoint's name must end with .pth")
    check_file_target(out)
    adapter = read_adapter(path)
    check_outputs(dict(out=out), [path, pretrained, adapter.frozen.get("source")])
    model = load_adapter(path, pretrained)
    meta = dict(adapter.as_checkpoint()["meta"], cfg=config_text(model.cfg))
    del meta[RECORD]
    with atomic_write(out) as partial:
        torch.save(dict(meta=to_plain(meta), state_dict=model.state_dict()), partial)
    return model


def config_of(content: Mapping[str, Any], source: str) -> Config:
    """The config that a file carries, which may name registered classes alone.

    Args:
        content: of the config, in plain containers.
        source: the file, for messages.

    Raises:
        InputError: if it is no config, or a ``type`` is no registered class.
    """
    check_types(content, source)
    try:
        return Config(dict(content))
    except (KeyError, TypeError) as error:  # a name that is mmengine's own
        raise InputError(f"{source}: what it holds is no config: {error}") from error


def build_model(cfg: Config, source: str, pretrained: str | None = None) -> nn.Module:
    """Build the model of a config; its weights are still to come.

    Args:
        cfg: the whole config; of unknown origin only after :func:`check_types`.
        source: where it stands, for messages.
        pretrained: takes the place of the config's.

    Raises:
        InputError: if it builds no multi-task model.
    """
    init_default_scope(cfg.get("default_scope") or "vmt_mm")
    try:
        if pretrained is not None:
            cfg.model.backbone.pretrained = pretrained
        model = MODELS.build(cfg.model)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except Exception as error:  # a class may fail in any way at arguments that it was not made for
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{source}: its config builds no model ({type(error).__name__}: {reason})"
        ) from error
    if not hasattr(model, "tasks") or not hasattr(model, "backbone"):
        raise InputError(f"{source}: its config's model is no multi-task model")
    return model


def _frozen_record(model: nn.Module, checkpoint: str) -> FrozenRecord:
    """The record of the frozen encoder, after making sure that its file has it."""
    encoder = model.backbone
    if encoder.pretrained_path is None and (frozen := frozen_keys(model)):  # the checkpoint held it
        if not encoder.pretrained:
            raise InputError(
                f"{checkpoint}: its frozen encoder came from no file, and an adapter file names "
                "one; write it to a file by tools/model_converters/export_encoder.py --float32 and "
                "set pretrained=FILE"
            )
        state = model.state_dict()
        had = {key: state[key].clone() for key in frozen}
        encoder.load_pretrained()
        if any(not torch.equal(had[key], state[key]) for key in keys_left_out(model)):
            raise InputError(
                f"{checkpoint} holds another frozen encoder than {encoder.pretrained!r}; set "
                "pretrained=FILE to the one that it was trained with"
            )
    keys = keys_left_out(model)
    return FrozenRecord.of(model, keys, encoder.pretrained_path if keys else None)


def _to_half(tensors: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Round parameters to float16."""
    rounded = dict(tensors)
    for key in tensors.keys() & parameters.keys():
        rounded[key] = tensors[key].to(torch.float16)
        if not torch.equal(rounded[key].isfinite(), tensors[key].isfinite()):
            raise InputError(f"{key} has numbers beyond float16's; export without --half")
    return rounded


def _portable(cfg: Config, pretrained: str | None) -> dict[str, Any]:
    """A config without what belongs to one run; classes by their registered names.

    Args:
        cfg: the config.
        pretrained: file of the frozen encoder; None leaves what the config declares.
    """
    config = {key: value for key, value in plain_config(cfg).items() if key not in _OF_RUN}
    if pretrained is not None:
        config["model"]["backbone"]["pretrained"] = pretrained
        if "pretrained" in config:
            config["pretrained"] = pretrained
    return config


def _dataset_meta(model: nn.Module, checkpoint: Any) -> dict[str, dict[str, Any]]:
    """Classes and palette of every task, as far as the training's data set has them."""
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    known = (meta or {}).get("dataset_meta") or {}
    return {
        task: {key: known[task][key] for key in ("classes", "palette") if key in known[task]}
        if isinstance(known.get(task), Mapping)
        else {}
        for task in model.tasks
    }


def _metrics(checkpoint: Any, path: Path) -> dict[str, float] | None:
    """Metrics of a validation of exactly these weights: noted in the checkpoint or beside it."""
    if not isinstance(checkpoint, Mapping) or "message_hub" not in checkpoint:
        return None
    notes = [checkpoint["message_hub"].get("runtime_info", {}).get(VALIDATED)]
    beside = path.parent / LAST_VALIDATION
    if beside.is_file():
        notes.append(json.loads(beside.read_text()))
    iteration = checkpoint.get("meta", {}).get("iter")
    return next((n["metrics"] for n in notes if n and n["iter"] == iteration), None)
