"""Add, remove and rename tasks of a trained model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from vmt_mm.checkpoints.adapter_file import is_adapter_file, read_adapter, write_adapter
from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.frozen import FrozenRecord, keys_left_out, strip_frozen
from vmt_mm.checkpoints.keys import places_of_tasks
from vmt_mm.checkpoints.renamed import with_new_names
from vmt_mm.config.dump import config_text, read_config_text
from vmt_mm.config.files import files_read
from vmt_mm.config.load import load_config
from vmt_mm.config.tree import dicts_in
from vmt_mm.errors import InputError
from vmt_mm.loading.model import build_model, describe, load_file
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import atomic_write, check_file_target, check_outputs, write_bytes

#: Entries of a config's dictionaries that list tasks by name.
_BY_TASK = ("tasks", "task_heads", "reference", "metainfo")
#: Old name of a task -> new name; None where it is removed.
Names = Mapping[str, Any]


def edit_tasks(
    path: str | Path, out: Path, remove: Sequence[str] = (), rename: Mapping[str, str] | None = None
) -> list[str]:
    """Write a checkpoint or adapter file with fewer tasks, or tasks of other names.

    Its config, and all else that it says of its tasks, is edited too; what only resuming needs is
    left out.

    Args:
        path: checkpoint of a training (``.pth``) or adapter file (``.safetensors``).
        out: file to write, of the same kind.
        remove: names of tasks.
        rename: name -> new name.

    Returns:
        Names of the tasks in the new file.
    """
    path = Path(path)
    if out.suffix != path.suffix:
        raise InputError(f"{out}: the file to write must end with {path.suffix!r}, as {path.name}")
    check_file_target(out)
    check_outputs(dict(out=out), [path])
    if is_adapter_file(path):
        adapter = read_adapter(path)
        names = _new_names(adapter.tasks, remove, rename or {})
        edited = replace(
            adapter,
            tensors=_weights(adapter.tensors, names),
            config=edit_config(adapter.config, names),
            description=_edited(adapter.description, names),
            dataset_meta=_entries(adapter.dataset_meta, names),
            metrics=None if adapter.metrics is None else _metrics(adapter.metrics, names),
        )
        write_adapter(out, edited)
        return edited.tasks
    content = read_checkpoint(str(path))
    meta = content.get("meta", {}) if isinstance(content, Mapping) else {}
    if not meta.get("vmt_mm") or "state_dict" not in content:
        raise InputError(f"{path} does not name its tasks: tools/train.py did not write it")
    names = _new_names(list(meta["vmt_mm"]["tasks"]), remove, rename or {})
    config = edit_config(read_config_text(meta.get("cfg"), f"{path}: its meta.cfg"), names)
    kept = {key: value for key, value in meta.items() if key != "processes"}
    kept.update(vmt_mm=_edited(meta["vmt_mm"], names), cfg=config_text(Config(config)))
    kept.update(dataset_meta=_entries(meta.get("dataset_meta") or {}, names))
    parts = {"state_dict", "ema_state_dict"} & content.keys()
    with atomic_write(out) as partial:
        weights = {part: _weights(content[part], names) for part in parts}
        torch.save(dict(weights, meta=to_plain(kept)), partial)
    return list(kept["vmt_mm"]["tasks"])


def _new_names(tasks: Sequence[str], remove: Sequence[str], rename: Mapping[str, str]) -> Names:
    """The new name of every task; raise InputError if the edit is not possible."""
    if unknown := [name for name in (*remove, *rename) if name not in tasks]:
        raise InputError(f"unknown task(s) {unknown}; the model has {list(tasks)}")
    names = {task: None if task in remove else rename.get(task, task) for task in tasks}
    left = [name for name in names.values() if name is not None]
    if not left or len(set(left)) < len(left) or not all(map(str.isidentifier, left)):
        raise InputError(f"the tasks would be {left}: there must be one, of different valid names")
    if set(remove) & set(rename) or not (remove or rename):
        raise InputError("give --remove NAME or --rename OLD=NEW, each task once at most")
    return names


def _entries(by_task: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A mapping by tasks without the removed ones and with the new names."""
    return {new: v for key, v in by_task.items() if (new := names.get(key, key)) is not None}


def _metrics(metrics: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Metrics ``<task>/<name>``, likewise; the mean over tasks goes when a task goes."""
    gone = {"delta"} if None in names.values() else set()
    split = {key: key.partition("/") for key in metrics if key not in gone}
    return {
        names.get(task, task) + slash + name: metrics[key]
        for key, (task, slash, name) in split.items()
        if names.get(task, task) is not None
    }


def _weights(state: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """The tensors of the tasks that stay, under their new keys."""
    places, edited = places_of_tasks(state, names), {}
    for key, value in state.items():
        parts = key.split(".")
        if key in places:
            parts[places[key]] = names[parts[places[key]]]
        if None not in parts:
            edited[".".join(parts)] = value
    return edited


def edit_config(config: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A config, in plain containers, in which tasks are edited wherever they are named."""
    new = _edited(with_new_names(config), names)
    hook = (new.get("default_hooks") or {}).get("checkpoint") or {}
    if best := hook.get("save_best"):
        kept = list(_metrics(dict.fromkeys([best] if isinstance(best, str) else best), names))
        hook.update(save_best=kept or None, rule=None)
    return new


def _edited(node: Any, names: Names) -> Any:
    """A copy in which keys that list tasks are edited, and parts of removed tasks left out."""
    if isinstance(node, (list, tuple)):
        return type(node)(_edited(child, names) for child in node if not _is_removed(child, names))
    if not isinstance(node, Mapping):
        return node
    copy = {key: _edited(value, names) for key, value in node.items() if key != "new_tasks"}
    for key in copy.keys() & set(_BY_TASK):
        if isinstance(copy[key], Mapping):
            copy[key] = _entries(copy[key], names) or (None if key == "reference" else {})
        elif isinstance(copy[key], (list, tuple)):
            copy[key] = list(_entries(dict.fromkeys(copy[key]), names))
    if isinstance(task := copy.get("task"), str):  # of a metric, or of a config reduced to it
        copy["task"] = names.get(task, task)
    return copy


def _is_removed(entry: Any, names: Names) -> bool:
    """Whether it is a metric of a removed task, or a dataset that labels only removed tasks."""
    if not isinstance(entry, Mapping) or "type" not in entry:
        return False
    of = [entry["task"]] if isinstance(entry.get("task"), str) else list(entry.get("tasks") or ())
    return bool(of) and all(names.get(task, task) is None for task in of)


def add_task(
    config: Path,
    checkpoint: Path,
    name: str,
    task: Mapping[str, Any],
    out_config: Path,
    out_checkpoint: Path,
    head: Mapping[str, Any] | None = None,
) -> Any:
    """Write a config that trains one more task, and the checkpoint that it starts from.

    Both are written once the config was read, its model built, and the old checkpoint loaded.

    Args:
        config: of the trained model.
        checkpoint: of the trained model, or an adapter file.
        name: of the new task.
        task: its config, ``dict(type=..., ...)``.
        out_config: config to write.
        out_checkpoint: checkpoint to write: the old one with the new task's initial values.
        head: config of the new task's head; None takes the model's.

    Returns:
        The model, as it starts.
    """
    for path in (out_config, out_checkpoint):
        if path.exists():
            raise InputError(f"{path} exists already; move it away or give another name")
        check_file_target(path)
    old = load_config(config, training=False)
    outputs = dict(out_config=out_config, out_checkpoint=out_checkpoint)
    check_outputs(outputs, [checkpoint, *files_read(old)])
    lines = [f"# The model of {config.name} learns {name!r}, too; what was trained stays."]
    base = os.path.relpath(config.resolve(), out_config.resolve().parent)
    lines += [f"_base_ = {Path(base).as_posix()!r}", f"load_from = {out_checkpoint.as_posix()!r}"]
    text = "\n".join([*lines, *_additions(old, config, name, task, head)]) + "\n"
    with tempfile.NamedTemporaryFile("w", suffix=".py", prefix="_", dir=out_config.parent) as trial:
        trial.write(text)
        trial.flush()
        cfg = load_config(trial.name, training=False)
    torch.manual_seed(cfg.get("randomness", {}).get("seed") or 0)
    model = build_model(cfg, str(config))
    known = load_file(model, cfg, checkpoint, start_new=True).get("meta") or {}
    meta = dict(vmt_mm=describe(model, cfg.model), cfg=config_text(cfg))
    meta["dataset_meta"] = known.get("dataset_meta") or {}
    content = dict(meta=to_plain(meta), state_dict=dict(model.state_dict()))
    if keys := keys_left_out(model):
        strip_frozen(content, keys, FrozenRecord.of(model, keys))
    with atomic_write(out_checkpoint) as partial:
        torch.save(content, partial)
    write_bytes(out_config, text.encode())
    return model


def _additions(
    old: Config, path: Path, name: str, task: Mapping[str, Any], head: Mapping[str, Any] | None
) -> list[str]:
    """The lines that add a task to the config ``old`` of the file ``path``."""
    metric = build_tasks({name: task})[name].primary_metric
    tasks = (old.get("model") or {}).get("tasks") or {}
    if name in tasks:
        raise InputError(f"{path} has a task {name!r} already; its tasks: {list(tasks)}")
    datasets = [d for d in dicts_in(old.train_dataloader.dataset) if "data_root" in d]
    if old.get("tasks") != tasks or len(datasets) != 1:
        raise InputError(
            f"{path} trains on {len(datasets)} data sets, or has no top-level `tasks` of its model;"
            " write the config by hand, see docs/add_a_task.md"
        )
    model = dict(new_tasks=[name], **(dict(task_heads={name: dict(head)}) if head else {}))
    lines = [
        f"new = dict({name}={dict(task)!r})",
        "tasks = new  # joins those of the file below",
        f"model = {model!r}",
        "# the other tasks' labels are not needed to train",
        "train_dataloader = dict(dataset=dict(tasks=dict(_delete_=True, **new)))",
    ]
    if ((old.get("default_hooks") or {}).get("checkpoint") or {}).get("save_best") and metric:
        lines.append(f"default_hooks = dict(checkpoint=dict(save_best={f'{name}/{metric}'!r}))")
    if old.get("reference"):
        lines.append("reference = None  # there is no score of the new task to compare with")
    return lines
