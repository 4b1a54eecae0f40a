"""Load a config: merge options, check keys, and fill in derived values."""

import ast
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config

from vmt_mm.config import defaults
from vmt_mm.config.check import check_keys
from vmt_mm.config.dump import OrderedConfig
from vmt_mm.config.tree import LOADERS, dicts_in, expand_home
from vmt_mm.errors import InputError


def load_config(
    source: str | Path | Mapping[str, Any] | Config,
    options: Mapping[str, Any] | None = None,
    world_size: int = 1,
    training: bool = True,
) -> OrderedConfig:
    """Load a config, check its keys, and fill in the defaults of its components.

    >>> cfg = load_config("config.py", {"image_size": (512, 512)})

    Args:
        source: a file, mmengine's ``Config``, a dictionary, or a result of this function.
        options: merged into the config, like ``--cfg-options``; keys may be dotted.
        world_size: number of processes that share ``total_batch_size``, unless
            ``train_dataloader.batch_size`` (per process) is set.
        training: check the batch size.

    Top-level keys are defaults of components, see :mod:`vmt_mm.config.defaults`; ``~`` in paths is
    expanded. Raises InputError for missing files, unknown keys or types, and ineffective options.
    """
    cfg = _read(source)
    cfg.merge_from_dict(expand_home(dict(options or {})))
    defaults.merge_parts(cfg)
    for entry in dicts_in(dict(cfg.items())):
        entry.pop("_delete_", None)  # mmengine keeps it if there was nothing to delete
    given = {key.split(".")[0] for key in options or ()}
    check_keys(cfg, given)
    # a base variable that the file overrides must have an effect, unless an option set a component
    if isinstance(source, (str, Path)):
        given |= _set_again(source, cfg) - {key.split(".")[-1] for key in options or ()}
    _check_batch(cfg, world_size, training)
    user_set = cfg.to_dict()
    defaults.apply_protocol(cfg)
    defaults.reduce_to_task(cfg)
    defaults.fill_defaults(cfg, given)
    for loader in filter(None, map(cfg.get, LOADERS)):
        if loader.get("num_workers") == 0:
            loader["persistent_workers"] = False  # PyTorch refuses it without workers
    loader, total = cfg.get("train_dataloader"), cfg.get("total_batch_size")
    if loader and "batch_size" not in loader and total and total % world_size == 0:
        loader["batch_size"] = total // world_size
    if dist.is_initialized() and not torch.cuda.is_available():  # mmengine's default needs a GPU
        wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
        unused = cfg.get("find_unused_parameters", False)
        cfg.setdefault("model_wrapper_cfg", dict(wrapper, find_unused_parameters=unused))
    cfg.remember(user_set)
    return cfg


def _read(source: Any) -> OrderedConfig:
    """Read the user's settings; copy them if they are a mapping."""
    if isinstance(source, (str, Path)):
        path = os.path.expanduser(source)
        if not Path(path).is_file():
            raise InputError(f"{path}: no such config file")
        try:
            source = Config.fromfile(path)
        except Exception as error:  # a config is a program and may raise anything
            reason = str(error).split("\n")[0]
            raise InputError(f"{path}: {type(error).__name__}: {reason}") from error
    if isinstance(source, Config):
        content = expand_home(source.to_dict())
        return OrderedConfig(content, source.text, source.filename, source.env_variables)
    if not isinstance(source, Mapping):
        raise InputError(f"a config must be a file, a Config or a dictionary, got {source!r}")
    return OrderedConfig(expand_home(dict(source)))


def _set_again(source: str | Path, cfg: Config) -> set[str]:
    """Return the base variables that the file overrides.

    Raises InputError for a variable that only the base file uses: overriding it has no effect.
    """
    path = Path(os.path.expanduser(source))
    tree = ast.parse(path.read_text("utf-8") if path.suffix == ".py" else "")
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used = defaults.known_keys() | {name.id for name in names if isinstance(name.ctx, ast.Load)}
    values = [node for node in tree.body if type(node) is ast.Assign]
    own = {getattr(node.targets[0], "id", ""): node.value for node in values}
    bases: str | list[str] = []
    with contextlib.suppress(KeyError, ValueError):  # no base, or a computed one
        bases = ast.literal_eval(own["_base_"])
    bases = [bases] if isinstance(bases, str) else bases
    files = [path.parent / os.path.expanduser(file) for file in bases if "::" not in file]
    base = {name: value for file in files for name, value in Config.fromfile(file).items()}
    for name in (own.keys() & base.keys()) - used:
        if base[name] != cfg.get(name):
            why = "since the base file already used its own value; set the keys that use it"
            raise InputError(f"{path}: the top-level {name!r} has no effect, {why}")
    return own.keys() & base.keys()


def _check_batch(cfg: Config, world_size: int, training: bool) -> None:
    """Check the batch size; a size per process determines ``total_batch_size``."""
    loader, name = cfg.get("train_dataloader"), "total_batch_size"
    size = cfg.get(name)
    if loader and "batch_size" in loader:
        name, size = "train_dataloader.batch_size", loader.batch_size
        cfg.total_batch_size = size and size * world_size
    if loader is None or not training:
        return
    if type(size) is not int or size < 1:
        raise InputError(f"{name} must be a positive integer, got {size!r}")
    if cfg.total_batch_size % world_size:
        raise InputError(
            f"total_batch_size={size} must be divisible by the {world_size} processes; change "
            "either, or set train_dataloader.batch_size, which is per process"
        )
