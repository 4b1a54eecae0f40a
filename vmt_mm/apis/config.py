"""Read a config, merge options, and make the result mean what the user said.

mmengine resolves Python variables while it parses a file, so that a changed top-level variable
would reach nothing. :func:`load_config` carries it to its places, and every tool uses it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

from vmt_mm.errors import InputError
from vmt_mm.models.backbones.pretrained import locate
from vmt_mm.registry import DATASETS

#: Top-level variable -> names of the entries below that take its value.
_CARRIED = {
    "data_root": ("data_root",),
    "pretrained": ("pretrained",),
    "allow_random_backbone": ("allow_random_backbone",),
    "image_size": ("size", "scale"),
    "render": ("render",),
}
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load_config(
    path: str | Path, options: Mapping[str, Any] | None = None, world_size: int = 1
) -> Config:
    """Read a config file and merge options into it.

    - A changed ``data_root``, ``render`` or ``image_size`` reaches every data set and transform
      that had the old value, a changed ``pretrained`` or ``allow_random_backbone`` the encoder.
    - ``total_batch_size`` is divided over the processes, unless
      ``train_dataloader.batch_size`` is given, which stays per process.
    - On CPU, several processes get the wrapper that works there.

    Raises:
        InputError: if the file is missing, or the batch does not divide.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such config file")
    cfg = Config.fromfile(path)
    before = {key: copy.deepcopy(cfg.get(key)) for key in _CARRIED}
    cfg.merge_from_dict(dict(options or {}))
    for key, names in _CARRIED.items():
        if cfg.get(key) != before[key]:
            _carry(cfg, key, names, before[key])
    _divide_batch(cfg, world_size)
    if world_size > 1 and not torch.cuda.is_available():
        cfg.setdefault("model_wrapper_cfg", dict(type="MMDistributedDataParallel", device_ids=None))
    return cfg


def _carry(cfg: Config, key: str, names: tuple[str, ...], old: object) -> None:
    """Give the new value to every entry of these names that had the old one."""
    new = cfg[key]
    if key in ("pretrained", "allow_random_backbone"):
        backbone = cfg.get("model", {}).get("backbone")
        if backbone is not None and backbone.get(key) == old:
            backbone[key] = new
        return
    for loader in _LOADERS:
        for entry in _dicts(cfg.get(loader)):
            for name in names:
                if name in entry and _same(entry[name], old):
                    entry[name] = new


def _same(value: object, old: object) -> bool:
    as_tuple = [tuple(v) if isinstance(v, (list, tuple)) else v for v in (value, old)]
    return as_tuple[0] == as_tuple[1]


def _dicts(node: object) -> Iterator[ConfigDict]:
    """Every dictionary at or below ``node``."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _dicts(child)


def _divide_batch(cfg: Config, world_size: int) -> None:
    loader, total = cfg.get("train_dataloader"), cfg.get("total_batch_size")
    if loader is None:
        return
    if "batch_size" in loader:
        cfg.total_batch_size = loader.batch_size * world_size
    elif total is None:
        raise InputError("the config sets neither total_batch_size nor train_dataloader.batch_size")
    elif total % world_size:
        raise InputError(
            f"total_batch_size {total} does not divide over {world_size} processes; choose another "
            "number of processes, total_batch_size=N, or train_dataloader.batch_size=N per process"
        )
    else:
        loader.batch_size = total // world_size


def check_inputs(cfg: Config, training: bool) -> None:
    """Check, before anything is built, that data and weights are there.

    Args:
        cfg: a config that :func:`load_config` made.
        training: whether the pretrained weights are needed too.

    Raises:
        InputError: with one line for each thing that is missing, saying what is expected where.
    """
    problems: list[str] = []
    for loader in ("train_dataloader", "val_dataloader") if training else ("test_dataloader",):
        for entry in _dicts((cfg.get(loader) or {}).get("dataset")):
            if "data_root" not in entry or "type" not in entry:
                continue
            kind = DATASETS.get(entry["type"])
            find_problem = getattr(kind, "find_problem", None)
            if find_problem:
                keys = {k: entry[k] for k in ("data_root", "ann_file") if k in entry}
                problems.append(find_problem(**keys))
    pretrained = cfg.get("model", {}).get("backbone", {}).get("pretrained")
    if training and pretrained:
        try:
            locate(pretrained)
        except InputError as error:
            problems.append(str(error))
    problems = list(dict.fromkeys(p for p in problems if p))
    if problems:
        raise InputError("\nerror: ".join(problems))
