"""Add, remove and rename tasks of a trained model."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from vmt_mm.checkpoints.adapter_file import is_adapter_file, read_adapter, write_adapter
from vmt_mm.checkpoints.files import read_checkpoint, to_plain
from vmt_mm.checkpoints.keys import places_of_tasks
from vmt_mm.config.dump import config_text, read_config_text
from vmt_mm.config.load import load_config
from vmt_mm.errors import InputError
from vmt_mm.loading.adapters import check_out
from vmt_mm.loading.model import build_model, load_file
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.files import atomic_write, write_bytes

#: Keys whose values list tasks by name.
_BY_TASK = {"tasks", "task_heads", "reference", "metainfo", "dataset_meta"}
#: Old name of a task -> new name, or None if the task is removed.
Names = Mapping[str, Any]


def edit_tasks(
    path: str | Path, out: Path, remove: Sequence[str] = (), rename: Mapping[str, str] | None = None
) -> list[str]:
    """Copy a checkpoint or adapter file with tasks removed and renamed; return the names left.

    Weights, config and metadata are edited; state that only resuming needs is left out.
    """
    path = Path(path)
    check_out(out, path.suffix, [path])
    if is_adapter_file(path):
        adapter = read_adapter(path)
        names = _new_names(adapter.tasks, remove, rename or {})
        parts = ("config", "description", "dataset_meta")
        adapter = replace(
            adapter,
            tensors=_weights(adapter.tensors, names, adapter.config),
            metrics=None,
            **edited({part: getattr(adapter, part) for part in parts}, names),
        )
        write_adapter(out, adapter)
        return adapter.tasks
    content = read_checkpoint(str(path))
    meta = content.get("meta", {}) if isinstance(content, Mapping) else {}
    if not meta.get("vmt_mm") or "state_dict" not in content:
        raise InputError(f"{path} does not name its tasks; expected a checkpoint of tools/train.py")
    names = _new_names(list(meta["vmt_mm"]["tasks"]), remove, rename or {})
    config = read_config_text(meta.get("cfg"), f"{path}: its meta.cfg")
    meta = edited({**meta, "cfg": config, "processes": (), "weighting": {}}, names)
    meta["cfg"] = config_text(Config(meta["cfg"]))
    parts = {"state_dict", "ema_state_dict"} & content.keys()
    weights = {part: _weights(content[part], names, config) for part in parts}
    with atomic_write(out) as partial:
        torch.save(dict(weights, meta=to_plain(meta)), partial)
    return list(meta["vmt_mm"]["tasks"])


def _new_names(tasks: Sequence[str], remove: Sequence[str], rename: Mapping[str, str]) -> Names:
    """Return the new name of every task; raise InputError if the edit is not possible."""
    if unknown := [name for name in (*remove, *rename) if name not in tasks]:
        raise InputError(f"--remove, --rename: unknown task(s) {unknown}; known: {list(tasks)}")
    names = {task: None if task in remove else rename.get(task, task) for task in tasks}
    left = [name for name in names.values() if name is not None]
    if not left or len(set(left)) < len(left) or not all(map(str.isidentifier, left)):
        rule = "at least one must remain, with distinct names that are Python identifiers"
        raise InputError(f"after --remove and --rename, the tasks would be {left}; {rule}")
    if set(remove) & set(rename) or not (remove or rename):
        raise InputError("give --remove NAME or --rename OLD=NEW, but not both for the same task")
    return names


def edited(node: Any, names: Names) -> Any:
    """Copy plain containers and edit the names of tasks in them."""
    if isinstance(node, (list, tuple)):
        return type(node)(edited(child, names) for child in node if not _is_removed(child, names))
    if not isinstance(node, Mapping):
        return node
    copy = {key: edited(value, names) for key, value in node.items() if key != "new_tasks"}
    for key in copy.keys() & _BY_TASK:
        if isinstance(copy[key], Mapping):
            copy[key] = _entries(copy[key], names) or (None if key == "reference" else {})
        elif isinstance(copy[key], (list, tuple)):
            copy[key] = list(_entries(dict.fromkeys(copy[key]), names))
    if isinstance(groups := copy.get("groups"), Mapping):  # of PerTask
        lists = {group: list(_entries(dict.fromkeys(own), names)) for group, own in groups.items()}
        copy["groups"] = {group: own for group, own in lists.items() if own}
    if isinstance(task := copy.get("task"), str):  # of a metric, or of a config reduced to it
        copy["task"] = names.get(task, task)
    if best := copy.get("save_best"):  # <task>/<metric>, or of all tasks
        new = dict(names, delta=None if None in names.values() else "delta")
        parts = [key.partition("/") for key in ([best] if isinstance(best, str) else best)]
        kept = [f"{new.get(t, t)}{slash}{m}" for t, slash, m in parts if new.get(t, t) is not None]
        copy["save_best"] = (kept[0] if isinstance(best, str) else kept) if kept else None
        copy["rule"] = None  # follows from the remaining metrics
    if isinstance(balance := (copy.get("sampler") or {}).get("balance"), list):
        left = [not _is_removed(m, names) for m in node["dataset"].get("datasets", balance)]
        copy["sampler"]["balance"] = list(compress(balance, left))
    return copy


def _is_removed(entry: Any, names: Names) -> bool:
    """Whether an entry is a metric or a dataset of removed tasks only."""
    if not isinstance(entry, Mapping) or "type" not in entry:
        return False
    of = [entry["task"]] if isinstance(entry.get("task"), str) else list(entry.get("tasks") or ())
    return bool(of) and all(names.get(task, task) is None for task in of)


def _entries(by_task: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Apply the new names to a mapping keyed by task."""
    return {new: v for key, v in by_task.items() if (new := names.get(key, key)) is not None}


def _weights(state: Mapping[str, Any], names: Names, config: Any) -> dict[str, Any]:
    """Remove tensors of removed tasks and groups, and rename the keys of the others."""
    method = config["model"]["backbone"].get("peft") or {}
    left = edited(method, names).get("groups") or {}
    groups = {group: group if group in left else None for group in method.get("groups") or {}}
    return _renamed(_renamed(state, groups), names)


def _renamed(state: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Rename the parts of keys that are one of ``names``; remove those without a new name."""
    places, kept = places_of_tasks(state, names), {}
    for key, value in state.items():
        parts = key.split(".")
        if key in places:
            parts[places[key]] = names[parts[places[key]]]
        if None not in parts:
            kept[".".join(parts)] = value
    return kept


def add_task(
    config: Path,
    checkpoint: Path,
    name: str,
    task: Mapping[str, Any],
    out_config: Path,
    head: Mapping[str, Any] | None = None,
) -> Any:
    """Write a config that trains one more task, starting from a checkpoint or adapter file.

    ``task`` and ``head`` are configs; ``head`` None takes the model's. Returns the loaded model.
    """
    check_out(out_config, ".py", [checkpoint])
    if out_config.exists():
        raise InputError(f"{out_config} exists already; move it or give another name")
    old = load_config(config, training=False)
    metric = build_tasks({name: task})[name].primary_metric
    tasks = (old.get("model") or {}).get("tasks") or {}
    if name in tasks:
        raise InputError(f"{config} already has a task {name!r}; its tasks are {list(tasks)}")
    if "tasks" not in ((old.get("train_dataloader") or {}).get("dataset") or {"tasks": None}):
        problem = (
            f"{config} trains on several or wrapped datasets; which have {name!r} labels is unclear"
        )
        raise InputError(f"{problem}; write the config by hand, see docs/adapters.md")
    base = os.path.relpath(config.resolve(), out_config.resolve().parent)
    model = dict(new_tasks=[name], **(dict(task_heads={name: dict(head)}) if head else {}))
    lines = [
        f"# Add the task {name!r} to the model of {config.name}; only its parameters train.",
        f"_base_ = {Path(base).as_posix()!r}",
        f"new = dict({name}={dict(task)!r})",
        "tasks = new  # merged into the tasks of the base config",
        f"model = {model!r}",
        "# the labels of the other tasks are not needed to train",
        "train_dataloader = dict(dataset=dict(tasks=dict(_delete_=True, **new)))",
        f"load_from = {checkpoint.as_posix()!r}",
    ]
    if ((old.get("default_hooks") or {}).get("checkpoint") or {}).get("save_best") and metric:
        lines.append(f"default_hooks = dict(checkpoint=dict(save_best={f'{name}/{metric}'!r}))")
    if old.get("reference"):
        lines.append("reference = None  # the new task has no reference score")
    text = "\n".join(lines) + "\n"
    out_config.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".py", prefix="_", dir=out_config.parent) as trial:
        trial.write(text)
        trial.flush()
        cfg = load_config(trial.name, training=False)
    built = build_model(cfg, str(config))
    load_file(built, cfg, checkpoint, start_new=True)
    write_bytes(out_config, text.encode())
    return built
