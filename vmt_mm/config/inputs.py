"""Check values, files and tasks of a config before anything is built."""

import logging
from collections.abc import Iterator, Mapping, Sequence
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
from vmt_mm.tasks.labels import IGNORE


def check_inputs(cfg: Config, training: bool) -> None:
    """Raise InputError with one line per wrong value, task, file or monitored metric."""
    cfg = load_config(cfg, training=False)
    loaders = ("train_dataloader", "val_dataloader") if training else ("test_dataloader",)
    if not isinstance(cfg.get("model"), Mapping):
        raise InputError(f"{cfg.filename or 'the config'}: no `model`; see configs/_base_/models")
    faults = [*_values(cfg, loaders)]
    for name in loaders:
        faults += [*_tasks(cfg, name), *_derived_labels(cfg, name)]
        for entry in datasets_in(cfg.get(name)):
            find_problem = getattr(DATASETS.get(entry["type"]), "find_problem", lambda **_: None)
            keys = {key: entry[key] for key in ("data_root", "ann_file") if key in entry}
            faults += filter(None, [find_problem(**keys)])
    faults += [*_weights(cfg, training), *rule_faults(cfg, training)]
    if faults:
        raise InputError("\nerror: ".join(dict.fromkeys(faults)))
    if both := training and set.intersection(*(_ids(cfg.get(name)) for name in loaders)):
        warning = f"{len(both)} image(s) are in both the training and the validation split"
        warning += f" (such as {min(both)[1]!r}); validation scores will be optimistic"
        print_log(warning, "current", logging.WARNING)


def _values(cfg: Config, loaders: tuple[str, ...]) -> Iterator[str]:
    """Yield errors in single values."""
    size, counts = cfg.get("image_size", (1, 1)), {}
    sides = size if isinstance(size, (list, tuple)) else ()
    if [type(side) is int and side > 0 for side in sides] != [True, True]:
        yield f"`image_size` must be two positive integers, (width, height), got {size!r}"
    for name, loader in ((name, cfg[name]) for name in loaders if cfg.get(name)):
        if "batch_sampler" not in loader:
            counts[f"{name}.batch_size"] = loader.get("batch_size")
        if type(workers := loader.get("num_workers", 0)) is not int or workers < 0:
            yield f"{name}.num_workers must be a non-negative integer, got {workers!r}"
    train = (cfg.get("train_cfg") or {}) if "train_dataloader" in loaders else {}
    keys = {"max_epochs", "max_iters", "val_interval"} & set(train)
    counts.update({f"train_cfg.{key}": train[key] for key in keys})
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            yield f"{name} must be a positive integer, got {count!r}"
    kind = (cfg.get("optim_wrapper") or {}).get("type") if "train_dataloader" in loaders else None
    if kind == "AmpOptimWrapper" and get_device() == "cpu":
        yield "AmpOptimWrapper needs an accelerator; use 'BFloat16OptimWrapper', as --amp does"
    if cfg.get("sync_bn") and not torch.cuda.is_available():
        yield f"sync_bn={cfg.sync_bn!r} needs GPUs; remove it"
    if not isinstance(cfg.get("resume", False), bool):
        yield f"`resume` must be True or False, got {cfg.resume!r}; set the file as load_from"
    if cfg.get("work_dir") and Path(cfg.work_dir).is_file():
        yield f"`work_dir` must be a folder, got the file {cfg.work_dir!r}"


def _tasks(cfg: Config, name: str) -> Iterator[str]:
    """Yield tasks of datasets and evaluators that the model lacks or defines differently."""
    if not isinstance(of_model := cfg.model.get("tasks"), Mapping):
        return
    evaluator, own = name.replace("dataloader", "evaluator"), build_tasks(of_model)
    users = [(f"{name} ({d['data_root']})", d.get("tasks")) for d in datasets_in(cfg.get(name))]
    for entry in (entry for entry in dicts_in(cfg.get(evaluator)) if "type" in entry):
        tasks = [entry["task"]] if "task" in entry else entry.get("tasks")
        users.append((f"{evaluator}: {entry['type']}", tasks))
    for place, tasks in users:
        if unknown := [task for task in tasks or () if task not in own]:
            yield f"{place} has unknown task(s) {unknown}; the model has {list(own)}"
        elif isinstance(tasks, Mapping) and tasks:
            for task, other in build_tasks(tasks).items():
                have, wanted = other.describe_output(), own[task].describe_output()
                if have != wanted:
                    yield f"{place}: task {task!r} is {have}, but {wanted} in the model"


def _derived_labels(cfg: Config, name: str) -> Iterator[str]:
    """Yield tasks and classes of ``DeriveLabel`` that do not match the model's tasks."""
    own = build_tasks(cfg.model.get("tasks") or {})
    steps = [step for d in datasets_in(cfg.get(name)) for step in dicts_in(d.get("pipeline"))]
    for step in (step for step in steps if step.get("type") == "DeriveLabel"):
        place, classes = f"{name}: DeriveLabel", step.get("classes")
        used = [step.get("task"), step.get("source")]
        unknown = [task for task in used if task not in own]
        if unknown and not cfg.get("task"):
            yield f"{place} has unknown task(s) {unknown}; the model has {list(own)}"
        elif not unknown and isinstance(classes, Sequence):
            target, source = (own[task].out_channels for task in used)
            if len(classes) != source:
                have = f"{len(classes)} value(s), but task {used[1]!r} has {source} classes"
                yield f"{place}: `classes` has {have}"
            if over := [n for n in classes if target <= n < IGNORE]:
                have = f"task {used[0]!r} has {target} classes"
                yield f"{place}: class {over[0]} in `classes`, but {have}"


def _weights(cfg: Config, training: bool) -> Iterator[str]:
    """Yield a missing checkpoint, or, if none is loaded, a missing pretrained file."""
    given, pretrained = cfg.get("load_from"), (cfg.model.get("backbone") or {}).get("pretrained")
    if given and "://" not in str(given) and not Path(given).is_file():
        yield f"{given}: no such checkpoint"
    resumes = cfg.get("resume") and newest_checkpoint(cfg.get("work_dir", ""))
    if training and pretrained and not given and not resumes:
        try:
            locate(pretrained)
        except InputError as error:
            yield str(error)


def _ids(loader: Any) -> set[tuple[Path, str]]:
    """Return folder and id of every image in a loader's datasets."""
    sets = datasets_in(loader)
    files = [Path(d["data_root"], d.get("ann_file", "splits/train.txt")) for d in sets]
    texts = [(f.parent, f.read_text("utf-8-sig", "replace")) for f in files if f.is_file()]
    return {(folder, i) for folder, text in texts for i in map(str.strip, text.splitlines()) if i}
