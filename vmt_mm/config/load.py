"""Load a config: merge options, check keys, and derive what components need."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config

from vmt_mm.config.check import check_keys
from vmt_mm.config.defaults import fill_defaults, known_keys
from vmt_mm.config.dump import OrderedConfig
from vmt_mm.config.tree import LOADERS, dicts_in, expand_home
from vmt_mm.config.variants import apply_protocol, reduce_to_task
from vmt_mm.errors import InputError


def load_config(
    source: str | Path | Mapping[str, Any] | Config,
    options: Mapping[str, Any] | None = None,
    world_size: int = 1,
    training: bool = True,
) -> OrderedConfig:
    """Load a config; a file, what mmengine read of it, and one that was loaded mean the same.

    - Components get the top-level values that they do not set, see :data:`DEFAULTS`.
    - ``protocol`` changes validation and test, see :func:`apply_protocol`.
    - ``task`` reduces the config to one of its tasks, see :func:`reduce_to_task`.
    - ``total_batch_size`` is divided over the processes, unless ``train_dataloader.batch_size``
      is set, which is per process.
    - In a process group on CPU, the model gets the wrapper that works there.
    - ``~`` at the start of a path is the home folder.

    Args:
        source: config file; or a config of mmengine, or a dictionary, which are left as they are.
        options: ``--cfg-options``.
        world_size: number of processes.
        training: whether a batch that does not divide over the processes is an error.

    Raises:
        InputError: if the file is missing, a key, type or task is unknown, an option has no
            effect, or the batch does not divide.
    """
    cfg = _read(source)
    cfg.merge_from_dict(expand_home(dict(options or {})))
    for entry in dicts_in(dict(cfg.items())):
        entry.pop("_delete_", None)  # mmengine leaves it where there was nothing to delete
    given = {key.split(".")[0] for key in options or ()}
    check_keys(cfg, given)
    given &= set(options or ())
    if isinstance(source, (str, Path)):
        chosen = {key.split(".")[-1] for key in options or ()}  # of components, perhaps
        given |= _variables_set(os.path.expanduser(source), cfg) - chosen
    _check_batch(cfg, world_size, training)
    user_set = cfg.to_dict()
    derive(cfg, given)
    for loader in filter(None, map(cfg.get, LOADERS)):
        if loader.get("num_workers") == 0:
            loader["persistent_workers"] = False  # there are none to keep
    loader, total = cfg.get("train_dataloader") or {"batch_size": None}, cfg.get("total_batch_size")
    if "batch_size" not in loader and total and total % world_size == 0:
        loader["batch_size"] = total // world_size
    if dist.is_initialized() and not torch.cuda.is_available():
        # mmengine's default asks for a GPU; like it, leave buffers alone between validations
        wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
        unused = cfg.get("find_unused_parameters", False)
        cfg.setdefault("model_wrapper_cfg", dict(wrapper, find_unused_parameters=unused))
    cfg.remember(user_set)
    return cfg


def derive(cfg: Config, given: Collection[str] = ()) -> None:
    """Derive components' settings from top-level keys, in place; see :func:`load_config`."""
    apply_protocol(cfg)
    reduce_to_task(cfg)
    fill_defaults(cfg, given)


def _read(source: Any) -> OrderedConfig:
    """Return a copy of what the user set."""
    if isinstance(source, (str, Path)):
        path = os.path.expanduser(source)
        if not Path(path).is_file():
            raise InputError(f"{path}: no such config file")
        try:
            source = Config.fromfile(path)
        except Exception as error:  # a config is a program, and may fail in any way
            reason = str(error).split("\n")[0]
            raise InputError(f"{path}: {type(error).__name__}: {reason}") from error
    if isinstance(source, Config):
        content = expand_home(source.to_dict())
        return OrderedConfig(content, source.text, source.filename, source.env_variables)
    if not isinstance(source, Mapping):
        raise InputError(f"a config must be a file, a Config or a dictionary, got {source!r}")
    return OrderedConfig(expand_home(dict(source)))


def _variables_set(path: str, cfg: Config) -> set[str]:
    """Return the top-level variables of its base that a file sets again.

    Raises:
        InputError: for one that the file does not use, and its base has used with another value.
    """
    if not path.endswith(".py"):
        return set()
    tree = ast.parse(Path(path).read_text("utf-8"))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = known_keys() | {name.id for name in names if isinstance(name.ctx, ast.Load)}
    values = {getattr(n.targets[0], "id", ""): n.value for n in tree.body if type(n) is ast.Assign}
    if "_base_" not in values:
        return set()
    files, again = ast.literal_eval(values["_base_"]), set()
    for file in [files] if isinstance(files, str) else files:
        base = Config.fromfile(Path(path).parent / file) if "::" not in file else {}
        again |= values.keys() & set(base)
        for name in values.keys() & set(base) - used:
            if base[name] != cfg.get(name):
                raise InputError(
                    f"{path}: the top-level {name!r} reaches nothing, since the base file has used "
                    "its own value already; use it where it belongs"
                )
    return again


def _check_batch(cfg: Config, world_size: int, training: bool) -> None:
    """Check the batch; one that is given per process decides ``total_batch_size``."""
    loader, total = cfg.get("train_dataloader"), cfg.get("total_batch_size")
    if loader is None:
        return
    explicit = "batch_size" in loader
    name, size = "total_batch_size", total
    if explicit:
        name, size = "train_dataloader.batch_size", loader.batch_size
    elif total is None and training:
        raise InputError("the config sets neither total_batch_size nor train_dataloader.batch_size")
    if training and (type(size) is not int or size < 1):
        raise InputError(f"{name} must be a positive whole number, got {size!r}")
    if explicit:
        cfg.total_batch_size = size * world_size
    elif training and size % world_size:
        raise InputError(
            f"total_batch_size {total} does not divide over {world_size} processes; choose another "
            "number of processes, total_batch_size=N, or train_dataloader.batch_size=N per process"
        )
