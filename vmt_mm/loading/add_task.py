"""Make a trained model ready to learn one task more: a config, and a checkpoint that fits it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import FrozenRecord, keys_left_out, strip_frozen
from vmt_mm.config.dump import config_text
from vmt_mm.config.files import files_read
from vmt_mm.config.load import load_config
from vmt_mm.config.tree import dicts_in
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import build_model
from vmt_mm.loading.model import describe, load_model
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs, write_bytes


def add_task(
    config: Path,
    checkpoint: Path,
    name: str,
    task: Mapping[str, Any],
    out_config: Path,
    out_checkpoint: Path,
    head: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Write a config that trains one task more, and the checkpoint that it starts from.

    Both are written once everything has been tried: the config is read as a tool reads it, its
    model built, and the old checkpoint loaded into it.

    Args:
        config: of the trained model.
        checkpoint: of the trained model; an adapter file will do.
        name: of the new task.
        task: its config, ``dict(type=..., ...)``.
        out_config: config to write.
        out_checkpoint: checkpoint to write: the old one, and the new task's initial values.
        head: config of the new task's head; None takes the kind that the model's tasks share.

    Returns:
        The model, as it starts.

    Raises:
        InputError: if the model has the task already, the task or its head cannot be built, the
            checkpoint does not fit, the training data cannot get the task's labels by a config of
            these lines, or a file to write is there.
    """
    for path in (out_config, out_checkpoint):
        if path.exists():
            raise InputError(f"{path} is there already; move it away or give another name")
        check_file_target(path)
    former = load_config(config, training=False)
    outputs = dict(out_config=out_config, out_checkpoint=out_checkpoint)
    check_outputs(outputs, [checkpoint, *files_read(former)])
    built = build_tasks({name: task})[name]
    _check_former(former, config, name)
    text = _config_text(config, former, built, task, out_config, out_checkpoint, head)
    cfg = _load_text(text, out_config)
    torch.manual_seed(cfg.get("randomness", {}).get("seed") or 0)
    model = build_model(cfg, str(config))
    content = read_checkpoint(str(checkpoint))
    load_model(model, content, str(checkpoint), describe(model, cfg.model), start_new=True)
    with atomic_write(out_checkpoint) as partial:
        torch.save(_content(model, cfg, content), partial)
    write_bytes(out_config, text.encode())
    return model


def _check_former(cfg: Config, path: Path, name: str) -> None:
    tasks = (cfg.get("model") or {}).get("tasks")
    if not isinstance(tasks, Mapping) or cfg.get("tasks") != tasks:
        raise InputError(
            f"{path}: its model's tasks must be those of a top-level `tasks`, so that a new one "
            "reaches all places; write the config by hand, see docs/add_a_task.md"
        )
    if name in tasks:
        raise InputError(f"{path} has a task {name!r} already; its tasks: {list(tasks)}")
    datasets = [d for d in dicts_in(cfg.train_dataloader.dataset) if "data_root" in d]
    if len(datasets) != 1 or "tasks" not in cfg.train_dataloader.dataset:
        raise InputError(
            f"{path} trains on {len(datasets)} data sets or on a wrapped one, and which of them "
            f"labels {name!r} is not known; write the config by hand, see docs/add_a_task.md"
        )


def _config_text(
    config: Path,
    former: Config,
    task: Task,
    task_cfg: Mapping[str, Any],
    out_config: Path,
    out_checkpoint: Path,
    head: Mapping[str, Any] | None,
) -> str:
    """The new config: what differs from the old one."""
    base = Path(os.path.relpath(config.resolve(), out_config.resolve().parent)).as_posix()
    entry = _call(task_cfg)
    model = f"new_tasks=[{task.name!r}]"
    if head:
        model += f", task_heads=dict({task.name}={_call(head)})"
    lines = [
        f"# The model of {config.name} learns {task.name!r}, too; what was trained stays.",
        f"#   python tools/train.py {out_config.as_posix()}",
        f"_base_ = {base if '/' in base else f'./{base}'!r}",
        f"new = dict({task.name}={entry})",
        "tasks = new  # joins those of the file below",
        f"model = dict({model})",
        "# the other tasks' labels are not needed to train",
        "train_dataloader = dict(dataset=dict(tasks=dict(_delete_=True, **new)))",
        f"load_from = {out_checkpoint.as_posix()!r}",
    ]
    hook = (former.get("default_hooks") or {}).get("checkpoint") or {}
    if hook.get("save_best") and task.primary_metric:
        best = f"{task.name}/{task.primary_metric}"
        lines.append(f"default_hooks = dict(checkpoint=dict(save_best={best!r}))")
    if former.get("reference"):
        lines.append("reference = None  # there is no score of the new task to compare with")
    return "\n".join(lines) + "\n"


def _call(cfg: Mapping[str, Any]) -> str:
    return f"dict({', '.join(f'{key}={value!r}' for key, value in cfg.items())})"


def _load_text(text: str, path: Path) -> Config:
    """Read a config that is to stand at ``path``, as a tool will."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".py", prefix="_", dir=path.parent) as trial:
        trial.write(text)
        trial.flush()
        return load_config(trial.name, training=False)


def _content(model: nn.Module, cfg: Config, former: Mapping[str, Any]) -> dict[str, Any]:
    """What the new checkpoint holds; the frozen encoder is left out where its file has it."""
    meta = dict(vmt_mm=describe(model, cfg.model), cfg=config_text(cfg))
    known = former.get("meta") or {}
    if isinstance(known.get("dataset_meta"), Mapping):
        meta["dataset_meta"] = known["dataset_meta"]
    content = dict(meta=to_plain(meta), state_dict=dict(model.state_dict()))
    if keys := keys_left_out(model):
        strip_frozen(content, keys, FrozenRecord.of(model, keys, model.backbone.pretrained_path))
    return content
