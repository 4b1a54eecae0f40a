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
from vmt_mm.config.tree import dicts_in
from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import locate
from vmt_mm.registry import DATASETS
from vmt_mm.tasks import build_tasks

#: Entries of ``train_cfg`` that count something.
_COUNTS = ("max_epochs", "max_iters", "val_interval")


def check_inputs(cfg: Config, training: bool) -> None:
    """Check sizes, tasks, data and weights.

    Args:
        cfg: the config.
        training: whether it is for a training; then the pretrained weights are needed too, unless
            a checkpoint is loaded.

    Raises:
        InputError: with one line for each thing that is missing or does not fit, and the rule.
    """
    cfg = load_config(cfg, training=None)
    loaders = ("train_dataloader", "val_dataloader") if training else ("test_dataloader",)
    if not isinstance(cfg.get("model"), Mapping):
        raise InputError("the config has no `model`")
    problems = [
        *_sizes(cfg, loaders),
        *_tasks(cfg, loaders),
        *_data(cfg, loaders),
        *_weights(cfg, training),
        *_processes(cfg),
        *rule_faults(cfg, training),
    ]
    problems = list(dict.fromkeys(problems))
    if problems:
        raise InputError("\nerror: ".join(problems))
    if training:
        _warn_of_shared_ids(cfg)


def _sizes(cfg: Config, loaders: tuple[str, ...]) -> Iterator[str]:
    size = cfg.get("image_size", (1, 1))
    if not _is_size(size):
        yield f"image_size must be two positive whole numbers, (width, height), got {size!r}"
    counts = [
        (f"{name}.batch_size", (cfg.get(name) or {"batch_size": 1}).get("batch_size"))
        for name in loaders
        if "batch_sampler" not in (cfg.get(name) or {})
    ]
    train = (cfg.get("train_cfg") or {}) if "train_dataloader" in loaders else {}
    counts += [(f"train_cfg.{key}", train[key]) for key in _COUNTS if key in train]
    for name, count in counts:
        if type(count) is not int or count < 1:
            yield f"{name} must be a positive whole number, got {count!r}"
    for name in loaders:
        workers = (cfg.get(name) or {}).get("num_workers", 0)
        if type(workers) is not int or workers < 0:
            yield f"{name}.num_workers must be a whole number, 0 or more, got {workers!r}"
    if not isinstance(cfg.get("resume", False), bool):
        yield f"resume must be True or False, got {cfg.resume!r}; the file belongs into load_from"
    work_dir = cfg.get("work_dir")
    if work_dir and Path(work_dir).exists() and not Path(work_dir).is_dir():
        yield f"work_dir {work_dir!r} is a file; expected a folder, or nothing there yet"


def _is_size(value: object) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(type(side) is int and side > 0 for side in value)
    )


def _tasks(cfg: Config, loaders: tuple[str, ...]) -> Iterator[str]:
    """Data and evaluators speak of the model's tasks alone."""
    model = cfg.get("model") or {}
    if not isinstance(model.get("tasks"), Mapping):
        return
    own = list(model["tasks"])
    for name in loaders:
        datasets = list(_datasets(cfg.get(name)))
        for dataset in datasets:
            tasks = dataset.get("tasks") or {}
            place = f"{name} ({dataset['data_root']})" if len(datasets) > 1 else name
            if unknown := [task for task in tasks if task not in own]:
                yield f"{place}: its data set has task(s) {unknown}, the model has {own}"
            else:
                yield from _other_tasks(place, tasks, model["tasks"])
        evaluator = name.replace("dataloader", "evaluator")
        for entry in dicts_in(cfg.get(evaluator)):
            tasks = entry.get("tasks")
            named = [entry["task"]] if "task" in entry else tasks if "type" in entry else ()
            if isinstance(tasks, Mapping) and set(tasks) <= set(own):
                yield from _other_tasks(evaluator, tasks, model["tasks"])
            if unknown := [task for task in named or () if task not in own]:
                yield (
                    f"{evaluator}: {entry['type']} is for task(s) {unknown}, the model has {own}"
                )


def _other_tasks(name: str, tasks: Mapping, of_model: Mapping) -> Iterator[str]:
    for task, own in (build_tasks(tasks) if tasks else {}).items():
        models = build_tasks({task: of_model[task]})[task]
        if own.describe_output() != models.describe_output():
            yield (
                f"{name}: task {task!r} is {own.describe_output()}, in the model "
                f"{models.describe_output()}"
            )


def _datasets(loader: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Every data set of a loader, inside wrappers as well."""
    for entry in dicts_in((loader or {}).get("dataset")):
        if "data_root" in entry and "type" in entry:
            yield entry


def _data(cfg: Config, loaders: tuple[str, ...]) -> Iterator[str]:
    for name in loaders:
        for entry in _datasets(cfg.get(name)):
            find_problem = getattr(DATASETS.get(entry["type"]), "find_problem", None)
            keys = {k: entry[k] for k in ("data_root", "ann_file") if k in entry}
            if find_problem and (problem := find_problem(**keys)):
                yield problem


def _weights(cfg: Config, training: bool) -> Iterator[str]:
    """The checkpoint that is loaded, or else the pretrained file."""
    given = cfg.get("load_from")
    if given and "://" not in str(given) and not Path(given).is_file():
        yield f"{given}: no such checkpoint"
    if not training or given or (cfg.get("resume") and newest_checkpoint(cfg.get("work_dir", ""))):
        return
    pretrained = cfg.get("model", {}).get("backbone", {}).get("pretrained")
    try:
        locate(pretrained) if pretrained else None
    except InputError as error:
        yield str(error)


def _processes(cfg: Config) -> Iterator[str]:
    if cfg.get("sync_bn") and not torch.cuda.is_available():
        yield (
            f"sync_bn={cfg.sync_bn!r} needs GPUs; without it every process normalises with its own "
            "batch, and statistics are averaged before validation"
        )
    kind = (cfg.get("optim_wrapper") or {}).get("type")
    if kind == "AmpOptimWrapper" and get_device() == "cpu":
        yield (
            "optim_wrapper.type='AmpOptimWrapper' needs an accelerator; use "
            "'BFloat16OptimWrapper', as --amp does, which runs on any device"
        )


def _warn_of_shared_ids(cfg: Config) -> None:
    """Warn where images are validated on that were trained on: scores would flatter."""
    splits = []
    for name in ("train_dataloader", "val_dataloader"):
        ids: set[tuple[str, str]] = set()
        for entry in _datasets(cfg.get(name)):
            path = Path(entry["data_root"]) / entry.get("ann_file", "splits/train.txt")
            if path.is_file():
                lines = path.read_text("utf-8-sig", errors="replace").splitlines()
                ids |= {(str(entry["data_root"]), line.strip()) for line in lines if line.strip()}
        splits.append(ids)
    if both := sorted(splits[0] & splits[1]):
        print_log(
            f"{len(both)} image(s) are in the training and in the validation split, the first is "
            f"{both[0][1]!r}: the scores flatter",
            "current",
            logging.WARNING,
        )
