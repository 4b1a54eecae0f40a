"""Adapter files: take what a training added out of its checkpoint, and put it on the backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

import vmt_mm
from vmt_mm.checkpoints.adapter_file import Adapter, read_adapter, write_adapter
from vmt_mm.checkpoints.files import LAST_VALIDATION, VALIDATED, to_plain
from vmt_mm.checkpoints.frozen import RECORD, FrozenRecord, keys_left_out
from vmt_mm.checkpoints.keys import is_recomputed
from vmt_mm.checkpoints.renamed import refuse_old_names
from vmt_mm.config.dump import config_text, plain_config
from vmt_mm.config.files import files_read
from vmt_mm.config.load import load_config
from vmt_mm.config.safe_types import check_types
from vmt_mm.errors import InputError
from vmt_mm.loading.model import build_model, describe, load_file, load_model
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs

#: Belongs to one run, and is of no use to another.
_OF_RUN = ("work_dir", "load_from", "resume", "launcher", "experiment_name")


def load_adapter(path: str | Path, pretrained: str | None = None, device: Any = "cpu") -> Any:
    """Put an adapter file on its frozen backbone.

    Its config may name only registered classes: import modules with classes of your own before.

    Args:
        path: an adapter file, as ``tools/model_converters/export_adapter.py`` writes it.
        pretrained: file of the frozen backbone; None takes the one that the adapter names.
        device: of the model.

    Returns:
        The model in eval mode, with ``cfg`` and ``dataset_meta``: task -> ``dict(classes=...,
        palette=...)``.
    """
    adapter = read_adapter(path)
    cfg = config_of(adapter.config, str(path))
    model = build_model(cfg, str(path), pretrained)
    load_model(model, adapter.as_checkpoint(), str(path), describe(model, cfg.model))
    model.cfg, model.dataset_meta = cfg, {k: dict(v) for k, v in adapter.dataset_meta.items()}
    return model.to(device).eval()


def config_of(content: Mapping[str, Any], source: str) -> Config:
    """The config in the file ``source``, which may name only registered classes."""
    refuse_old_names(content, source)
    check_types(content, source)
    try:
        return Config(dict(content))
    except (KeyError, TypeError) as error:  # a name that mmengine reserves
        raise InputError(f"{source}: its config is not valid: {error}") from error


def export_adapter(cfg: Config, checkpoint: str | Path, out: Path, half: bool = False) -> Adapter:
    """Write what a training added to its frozen backbone to one file, and return it.

    The file holds the backbone, too, where that is not the one of the config's ``pretrained``.

    Args:
        cfg: the training's config.
        checkpoint: of that training, with or without the frozen backbone.
        out: file to write, ``.safetensors``.
        half: round parameters to float16; running statistics stay as they are.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: an adapter file's name must end with .safetensors")
    check_file_target(out)
    cfg = load_config(cfg, training=False)
    check_outputs(dict(out=out), [checkpoint, *files_read(cfg)])
    model = build_model(cfg, cfg.filename or "the config")
    content = load_file(model, cfg, checkpoint)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    left_out = _left_out(model, state)
    frozen = FrozenRecord.of(model, left_out)
    config = {key: value for key, value in plain_config(cfg).items() if key not in _OF_RUN}
    if frozen.source:
        config["model"]["backbone"]["pretrained"] = frozen.source
        config.update({"pretrained": frozen.source} if "pretrained" in config else {})
    if half:
        state = {**state, **_rounded({k: state[k] for k, _ in model.named_parameters()})}
    meta = content.get("meta") or {}
    known = {task: (meta.get("dataset_meta") or {}).get(task) or {} for task in model.tasks}
    adapter = Adapter(
        tensors={k: v for k, v in state.items() if k not in left_out and not is_recomputed(k)},
        config=config,
        description=describe(model, cfg.model),
        frozen=vars(frozen),
        dataset_meta={
            task: {key: of_task[key] for key in ("classes", "palette") if key in of_task}
            for task, of_task in known.items()
        },
        metrics=_metrics(content, Path(checkpoint)),
        version=vmt_mm.__version__,
    )
    write_adapter(out, adapter)
    return adapter


def merge_adapter(path: str | Path, out: Path, pretrained: str | None = None) -> Any:
    """Write an adapter and its backbone to one checkpoint, ``.pth``; return the model.

    ``pretrained`` and errors are those of :func:`load_adapter`.
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


def _left_out(model: Any, state: Mapping[str, torch.Tensor]) -> set[str]:
    """Keys that the backbone's file gives back, if the weights ``state`` are those of the file."""
    backbone = model.backbone
    if backbone.pretrained_path is None and backbone.pretrained:  # the checkpoint held them
        backbone.load_pretrained()
        loaded = model.state_dict()
        if any(not torch.equal(state[key], loaded[key]) for key in keys_left_out(model)):
            backbone.pretrained_path = None
    return keys_left_out(model)


def _rounded(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters in float16."""
    half = {key: value.to(torch.float16) for key, value in parameters.items()}
    for key, value in half.items():
        if not torch.equal(value.isfinite(), parameters[key].isfinite()):
            raise InputError(f"{key} has numbers beyond float16's; export without --half")
    return half


def _metrics(checkpoint: Mapping[str, Any], path: Path) -> dict[str, float] | None:
    """Metrics of a validation of exactly these weights: noted in the checkpoint or next to it."""
    notes = [checkpoint.get("message_hub", {}).get("runtime_info", {}).get(VALIDATED)]
    if (beside := path.parent / LAST_VALIDATION).is_file():
        notes.append(json.loads(beside.read_text()))
    iteration = checkpoint.get("meta", {}).get("iter", -1)
    return next((n["metrics"] for n in notes if n and n["iter"] == iteration), None)
