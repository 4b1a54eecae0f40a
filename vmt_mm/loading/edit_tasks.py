"""Remove tasks from a trained model's file, and give them other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from vmt_mm.checkpoints.adapter_file import is_adapter_file, read_adapter, write_adapter
from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import frozen_keys
from vmt_mm.checkpoints.keys import edit_keys, key_faults
from vmt_mm.config.dump import config_text
from vmt_mm.config.text import read_config_text
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import build_model, config_of
from vmt_mm.loading.model import describe
from vmt_mm.loading.task_edit import TaskEdit, edit_config
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs

#: What goes on with a training whose parameters are no longer all there.
_OF_TRAINING = ("optimizer", "param_schedulers", "message_hub")
_WEIGHTS = ("state_dict", "ema_state_dict")


def edit_tasks(
    path: str | Path,
    out: Path,
    remove: tuple[str, ...] = (),
    rename: Mapping[str, str] | None = None,
) -> list[str]:
    """Write a checkpoint, or an adapter file, with fewer tasks, or tasks of other names.

    The config and all else that a file says of its tasks change with the weights; what only
    resuming needs is left out.

    Args:
        path: checkpoint of a training (``.pth``) or adapter file (``.safetensors``).
        out: file to write, of the same kind.
        remove: names of tasks.
        rename: name -> new name.

    Returns:
        Names of the tasks of the file that was written.

    Raises:
        InputError: if a name does not fit, or the file is none that a training wrote, its config
            holds more than literals, or its PEFT method keeps several tasks in one tensor.
    """
    path, out, rename = Path(path), Path(out), rename or {}
    adapter = is_adapter_file(path)
    if out.suffix != path.suffix:
        raise InputError(f"{out}: the file to write must end with {path.suffix!r}, as {path.name}")
    check_file_target(out)
    check_outputs(dict(out=out), [path])
    edit_file = _edit_adapter if adapter else _edit_checkpoint
    return edit_file(path, out, remove, rename)


def _edit_adapter(
    path: Path, out: Path, remove: tuple[str, ...], rename: Mapping[str, str]
) -> list[str]:
    adapter = read_adapter(path)
    edit = TaskEdit(adapter.tasks, remove, rename)
    config = edit_config(adapter.config, edit)
    tensors = _edit_weights(adapter.tensors, edit)
    description = _checked(config, tensors, str(path))
    edited = replace(
        adapter,
        tensors=tensors,
        config=config,
        description=description,
        dataset_meta=edit.of_mapping(adapter.dataset_meta),
        metrics=None if adapter.metrics is None else edit.of_metrics(adapter.metrics),
    )
    write_adapter(out, edited)
    return edited.tasks


def _edit_checkpoint(
    path: Path, out: Path, remove: tuple[str, ...], rename: Mapping[str, str]
) -> list[str]:
    checkpoint = read_checkpoint(str(path))
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    described = meta.get("vmt_mm") if isinstance(meta, Mapping) else None
    if not described or "state_dict" not in checkpoint:
        raise InputError(
            f"{path} says nothing of its model's tasks: it is no checkpoint that tools/train.py "
            "wrote"
        )
    edit = TaskEdit(list(described["tasks"]), remove, rename)
    source = f"{path}: its meta.cfg"
    config = read_config_text(meta.get("cfg"), source)
    if isinstance((config.get("model") or {}).get("tasks"), dict):
        of_model = config["model"]["tasks"]  # the text sorts them
        config["model"]["tasks"] = {t: of_model[t] for t in edit.tasks if t in of_model}
    config = edit_config(config, edit)
    edited = {key: value for key, value in checkpoint.items() if key not in _OF_TRAINING}
    for part in set(_WEIGHTS) & edited.keys():
        edited[part] = _edit_weights(edited[part], edit)
    meta = {key: value for key, value in meta.items() if key != "processes"}
    meta["vmt_mm"] = _checked(config, edited["state_dict"], str(path))
    meta["cfg"] = config_text(Config(config))
    if isinstance(meta.get("dataset_meta"), Mapping):
        meta["dataset_meta"] = edit.of_mapping(meta["dataset_meta"])
    edited["meta"] = to_plain(meta)
    with atomic_write(out) as partial:
        torch.save(edited, partial)
    return list(meta["vmt_mm"]["tasks"])


def _edit_weights(state: Mapping[str, Tensor], edit: TaskEdit) -> dict[str, Tensor]:
    """The tensors of the tasks that stay, under their new keys."""
    return {new: state[key] for key, new in edit_keys(state, edit.tasks, edit.renamed).items()}


def _checked(config: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Make sure that the weights fit the config's model; return its description."""
    cfg = config_of(config, source)
    model = build_model(cfg, source)
    frozen = frozen_keys(model)
    faults = key_faults(
        model.state_dict(), state, lambda k: k in frozen or k.endswith("relative_position_index")
    )
    if faults:
        raise InputError(
            f"{source}: its PEFT method, {type(model.backbone.peft).__name__}, keeps what belongs "
            f"to single tasks in tensors of several, which cannot be taken apart; "
            f"without them the model would have {'; '.join(faults)}"
        )
    return describe(model, cfg.model)
