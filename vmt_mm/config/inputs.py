"""Check, before anything is built, that what a config asks for is there and fits together."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log

from vmt_mm.checkpoints.files import newest_checkpoint
from vmt_mm.config.load import load_config
from vmt_mm.config.monitors import rule_faults
from vmt_mm.config.tree import datasets_in, dicts_in
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import locate
from vmt_mm.registry import DATASETS
from vmt_mm.tasks import build_tasks


def check_inputs(cfg: Config, training: bool) -> None:
    """Check sizes, tasks, data and weights.

    Args:
        cfg: the config.
        training: whether it is for a training; then the pretrained weights are needed too, unless
            a checkpoint is loaded.

    Raises:
        InputError: with one line for each thing that is missing or does not fit, and the rule.
    """
    cfg = load_config(cfg, training=False)
    loaders = ("train_dataloader", "val_dataloader") if training else ("test_dataloader",)
    if not isinstance(cfg.get("model"), Mapping):
        raise InputError("the config has no `model`")
    faults = [*_values(cfg, loaders)]
    for name in loaders:
        faults += [*_tasks(cfg, name), *_data(cfg, name)]
    faults += [*_weights(cfg, training), *rule_faults(cfg, training)]
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))
    if training:
        _warn_of_shared_ids(cfg)


def _is_count(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _values(cfg: Config, loaders: tuple[str, ...]) -> Iterator[str]:
    """Yield faults of single values."""
    size = cfg.get("image_size", (1, 1))
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_count, size))):
        yield f"image_size must be two positive whole numbers, (width, height), got {size!r}"
    counts = {}
    for name, loader in ((name, cfg[name]) for name in loaders if cfg.get(name)):
        if "batch_sampler" not in loader:
            counts[f"{name}.batch_size"] = loader.get("batch_size")
        if not _is_count(workers := loader.get("num_workers", 0), 0):
            yield f"{name}.num_workers must be a whole number, 0 or more, got {workers!r}"
    train = (cfg.get("train_cfg") or {}) if "train_dataloader" in loaders else {}
    for key in {"max_epochs", "max_iters", "val_interval"} & set(train):
        counts[f"train_cfg.{key}"] = train[key]
    for name, count in counts.items():
        if not _is_count(count):
            yield f"{name} must be a positive whole number, got {count!r}"
    if not isinstance(cfg.get("resume", False), bool):
        yield f"resume must be True or False, got {cfg.resume!r}; the file belongs into load_from"
    work_dir = cfg.get("work_dir")
    if work_dir and Path(work_dir).is_file():
        yield f"work_dir {work_dir!r} is a file; expected a folder, or nothing there yet"
    if cfg.get("sync_bn") and not torch.cuda.is_available():
        yield f"sync_bn={cfg.sync_bn!r} needs GPUs; every process can normalise its own batch"
    kind = (cfg.get("optim_wrapper") or {}).get("type")
    if kind == "AmpOptimWrapper" and get_device() == "cpu":
        yield (
            "optim_wrapper.type='AmpOptimWrapper' needs an accelerator; 'BFloat16OptimWrapper', as "
            "of --amp, runs on any device"
        )


def _tasks(cfg: Config, name: str) -> Iterator[str]:
    """Yield tasks of data and evaluators that the model does not have, or has as another task."""
    of_model = cfg.model.get("tasks")
    if not isinstance(of_model, Mapping):
        return
    evaluator = name.replace("dataloader", "evaluator")
    users = [(f"{name} ({d['data_root']})", d.get("tasks")) for d in datasets_in(cfg.get(name))]
    for entry in dicts_in(cfg.get(evaluator)):
        if "type" in entry and ("task" in entry or "tasks" in entry):
            tasks = entry["tasks"] if "tasks" in entry else [entry["task"]]
            users.append((f"{evaluator}: {entry['type']}", tasks))
    own = build_tasks(of_model)
    for place, tasks in users:
        if unknown := [task for task in tasks or () if task not in own]:
            yield f"{place} is for task(s) {unknown}, the model has {list(own)}"
        elif isinstance(tasks, Mapping) and tasks:
            for task, other in build_tasks(tasks).items():
                have, wanted = other.describe_output(), own[task].describe_output()
                if have != wanted:
                    yield f"{place}: task {task!r} is {have}, in the model {wanted}"


def _data(cfg: Config, name: str) -> Iterator[str]:
    for entry in datasets_in(cfg.get(name)):
        find_problem = getattr(DATASETS.get(entry["type"]), "find_problem", None)
        keys = {key: entry[key] for key in ("data_root", "ann_file") if key in entry}
        if find_problem and (problem := find_problem(**keys)):
            yield problem


def _weights(cfg: Config, training: bool) -> Iterator[str]:
    """Yield whether the checkpoint that is loaded, or else the pretrained file, is missing."""
    given = cfg.get("load_from")
    if given and "://" not in str(given) and not Path(given).is_file():
        yield f"{given}: no such checkpoint"
    if not training or given or (cfg.get("resume") and newest_checkpoint(cfg.get("work_dir", ""))):
        return
    try:
        if pretrained := (cfg.model.get("backbone") or {}).get("pretrained"):
            locate(pretrained)
    except InputError as error:
        yield str(error)


def _warn_of_shared_ids(cfg: Config) -> None:
    """Warn where images are both trained and validated on."""
    splits: list[set[tuple[str, str]]] = []
    for name in ("train_dataloader", "val_dataloader"):
        splits.append(set())
        for entry in datasets_in(cfg.get(name)):
            path = Path(entry["data_root"], entry.get("ann_file", "splits/train.txt"))
            if path.is_file():
                ids = path.read_text("utf-8-sig", errors="replace").split("\n")
                splits[-1] |= {(str(entry["data_root"]), i.strip()) for i in ids if i.strip()}
    if both := sorted(splits[0] & splits[1]):
        print_log(
            f"{len(both)} image(s) appear in both the training and the validation split, the first "
            f"is {both[0][1]!r}; validation scores will be optimistic",
            "current",
            logging.WARNING,
        )
