"""Read a config, merge options, and make the result mean what the user said.

mmengine resolves Python variables while it parses a file, so that a changed top-level variable
would reach nothing. :func:`load_config` carries it to its places. Every tool uses it, and
everything that takes a config from Python: a file, a config that was read from it, and one that was
changed after that mean the same.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config

from vmt_mm.config.check import check_keys
from vmt_mm.config.dump import OrderedConfig
from vmt_mm.config.one_task import reduce_places, reduce_variables
from vmt_mm.config.protocols import apply_protocol
from vmt_mm.config.tree import LOADERS, dicts_in, expand_home
from vmt_mm.config.variables import check_variables
from vmt_mm.errors import InputError

#: Top-level variable -> names of the entries below that take its value.
_CARRIED = {
    "data_root": ("data_root",),
    "image_size": ("size", "scale"),
    "augment_on_device": ("on_device",),
    "render": ("render",),
    "tasks": ("tasks",),
    "reference": ("reference",),
}
#: Top-level variables of the encoder.
_OF_BACKBONE = ("pretrained", "allow_random_backbone")
#: Top-level variables that are carried to other places.
_VARIABLES = (*_CARRIED, *_OF_BACKBONE)
#: Attribute of a config that was loaded: the values that its places have.
_LOADED = "_loaded"


def load_config(
    source: str | Path | Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
    world_size: int = 1,
    training: bool | None = True,
) -> Config:
    """Read a config and merge options into it.

    One that was loaded before is as it was, apart from options and top-level variables that were
    changed since.

    - A top-level ``data_root``, ``image_size``, ``augment_on_device``, ``render``, ``tasks`` or
      ``reference`` that a file or the options set anew reaches every place that had the value of a
      file below; ``pretrained`` and ``allow_random_backbone`` reach the encoder. A place with a
      value of its own keeps it.
    - A data set whose ``tasks`` are some of the former ones gets their new values. One of several
      gets no other tasks than it had: it lists what it has labels for.
    - A top-level ``task`` reduces all of them to this one task: ``tasks`` and ``reference``, and
      with them model, data and metrics, ``model.task_heads``, and the checkpoint hook's
      ``save_best`` where that names another task. Of several data sets, those that do not label
      the task are left out, with their weights.
    - ``protocol`` says how validation and test score, see :func:`apply_protocol`.
    - ``total_batch_size`` is divided over the processes, unless
      ``train_dataloader.batch_size`` is given, which stays per process.
    - In a process group on CPU, the model gets the wrapper that works there.
    - A data loader without workers keeps none.
    - ``~`` at the start of a path is the home folder.
    - Keys that nothing reads are refused, see :func:`check_keys`.

    Args:
        source: config file; or a config of mmengine, or a dictionary, which are left as they are.
        options: ``--cfg-options``.
        world_size: number of processes.
        training: whether the training batch matters; None: as when it was loaded before, or yes.

    Raises:
        InputError: if the file is missing, a key or the task is unknown, a variable reaches
            nothing, or the batch does not divide.
    """
    cfg, known, loaded = _read(source)
    training = bool(not loaded or loaded["batch"]) if training is None else training
    batch = _batch(cfg, world_size) if training else loaded.get("batch")
    if loaded and not options and loaded == _state(cfg, batch, loaded["divided"]):
        return cfg
    given = copy.deepcopy(cfg)
    cfg.merge_from_dict(expand_home(copy.deepcopy(dict(options or {}))))  # takes `_delete_` out
    check_keys(cfg, {key.split(".")[0] for key in options or ()})
    if isinstance(source, (str, Path)):
        check_variables(source, known[-1], known[:-1])
    reduce_variables(cfg)
    for key in (key for key in _VARIABLES if key in cfg):
        former = [c.get(key) for c in (*known, given) if c.get(key) != cfg[key]]
        # of a config that names no file it is not known what its places had
        reached = bool(known and not former) or _carry(cfg, key, former)
        before = (known or [given])[-1].get(key)
        anew = before != cfg[key] or any(value is not None for value in former)
        if not reached and (anew if known else _has_places(cfg, key)):
            raise InputError(
                f"the top-level {key}={cfg[key]!r} reaches nothing: every place that uses it has a "
                "value of its own; set it there"
            )
    for name in LOADERS:
        loader = cfg.get(name) or {}
        if loader.get("num_workers") == 0:
            loader["persistent_workers"] = False  # there are none to keep
    apply_protocol(cfg)
    reduce_places(cfg)
    if loaded.get("task") not in (None, cfg.get("task")):
        raise InputError(
            f"the config was reduced to task={loaded['task']!r}, and its other tasks are gone; "
            "read its file again"
        )
    divided = loaded.get("divided", False)
    if training:
        if divided and loaded["batch"][0] == cfg.train_dataloader.get("batch_size"):
            del cfg.train_dataloader["batch_size"]  # it came from a total, which may be another now
        divided = "batch_size" not in (cfg.get("train_dataloader") or {"batch_size": None})
        _divide_batch(cfg, world_size)
        batch = _batch(cfg, world_size)
    if dist.is_initialized() and not torch.cuda.is_available():
        # mmengine's default asks for a GPU; like it, leave buffers alone between validations
        wrapper = dict(
            type="MMDistributedDataParallel",
            device_ids=None,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
        cfg.setdefault("model_wrapper_cfg", wrapper)
    state = copy.deepcopy(_state(cfg, batch, divided))
    object.__setattr__(cfg, _LOADED, state)  # not through `Config`, where it would become a key
    return cfg


def load_in_place(cfg: Config) -> None:
    """As :func:`load_config`, for the test, of the config itself."""
    cfg.__dict__.update(load_config(cfg, training=False).__dict__)


def _read(source: object) -> tuple[Config, list[Mapping[str, Any]], dict[str, Any]]:
    """The config, values that its places may have, and its state if it was loaded before."""
    if isinstance(source, (str, Path)):
        source = os.path.expanduser(source)
        if not Path(source).is_file():
            raise InputError(f"{source}: no such config file")
        cfg = _from_file(source)
        return cfg, [*_bases(source), copy.deepcopy(cfg)], {}
    if not isinstance(source, (Mapping, Config)):
        raise InputError(f"a config must be a file, a Config or a dictionary, got {source!r}")
    cfg = copy.deepcopy(source) if isinstance(source, Config) else Config(dict(source))
    cfg = OrderedConfig.of(cfg)
    expand_home(cfg._cfg_dict)
    loaded = vars(cfg).get(_LOADED, {})
    if loaded or not cfg.filename or not Path(cfg.filename).is_file():
        return cfg, [loaded] if loaded else [], loaded
    return cfg, [*_bases(cfg.filename), _from_file(cfg.filename)], {}


def _state(cfg: Config, batch: tuple | None, divided: bool) -> dict[str, Any]:
    """What decides whether a loaded config has to be loaded again."""
    state = {key: cfg.get(key) for key in (*_VARIABLES, "task", "protocol")}
    return dict(state, batch=batch, divided=divided)


def _batch(cfg: Config, world_size: int) -> tuple:
    """Images in a batch of one process, of all, and the number of processes."""
    loader = cfg.get("train_dataloader") or {}
    return loader.get("batch_size"), cfg.get("total_batch_size"), world_size


def _from_file(path: str | Path) -> Config:
    """Read a file; paths in it may begin with the home folder."""
    try:
        cfg = OrderedConfig.of(Config.fromfile(path))
    except Exception as error:  # a config is a program, and may fail in any way
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: {type(error).__name__}: {reason}") from error
    expand_home(cfg._cfg_dict)
    return cfg


def _bases(path: str | Path) -> Iterator[Config]:
    """Every config that a file builds on, by ``_base_``."""
    for base in Config._get_base_files(str(path)):
        base_path = Config._get_cfg_path(base, str(path))[0]
        yield _from_file(base_path)
        yield from _bases(base_path)


def _carry(cfg: Config, key: str, former: list) -> bool:
    """Give the new value to every entry that had a former one; tell whether any has it."""
    new = cfg[key]
    if key in _OF_BACKBONE:
        backbone = cfg.get("model", {}).get("backbone")
        if backbone is not None and backbone.get(key) in former:
            backbone[key] = new
        return backbone is not None and backbone.get(key) == new
    found = False
    trees = [value for name, value in cfg.items() if name != key]
    one_of_several = {
        id(member)
        for wrapper in dicts_in(trees)
        if key == "tasks" and isinstance(wrapper.get("datasets"), list)
        for member in dicts_in(wrapper["datasets"])
    }
    for entry in dicts_in(trees):
        for name in set() if id(entry) in one_of_several else set(_CARRIED[key]) & set(entry):
            entry[name] = _replace(entry[name], former, new)
            found = found or _plain(entry[name]) in (_plain(new), _names(new))
        if key == "tasks" and "data_root" in entry:
            entry.update(_renewed(entry, former, new))
    return found


def _has_places(cfg: Config, key: str) -> bool:
    """Whether anything in a config has a value that the variable could be carried to."""
    if key in _OF_BACKBONE:
        return bool(cfg.get("model", {}).get("backbone", {}).get(key))
    trees = [value for name, value in cfg.items() if name != key]
    return any(entry.get(name) is not None for entry in dicts_in(trees) for name in _CARRIED[key])


def _replace(value: object, former: list, new: object) -> object:
    """Return ``new`` where ``value`` is a former one; names where it lists a former one's."""
    for old in former:
        if old is None:
            continue
        if _plain(value) == _plain(old):
            return copy.deepcopy(new)
        if isinstance(value, list) and value == _names(old):
            return _names(new)
    return value


def _renewed(dataset: Mapping, former: list, new: Mapping) -> dict[str, Any]:
    """``tasks`` of a data set with the new values, where they are some of a former file's."""
    own = dataset.get("tasks")
    for old in former if own and isinstance(own, Mapping) else ():
        if old and all(old.get(name) == task and name in new for name, task in own.items()):
            return dict(tasks={name: copy.deepcopy(new[name]) for name in own})
    return {}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def _names(value: object) -> object:
    return list(value) if isinstance(value, dict) else None


def _divide_batch(cfg: Config, world_size: int) -> None:
    loader, total = cfg.get("train_dataloader"), cfg.get("total_batch_size")
    if loader is None:
        return
    if "batch_size" in loader:
        # explicit, per process: the config that is dumped says what the total then is
        _check_count("train_dataloader.batch_size", loader.batch_size)
        cfg.total_batch_size = loader.batch_size * world_size
        return
    if total is None:
        raise InputError("the config sets neither total_batch_size nor train_dataloader.batch_size")
    _check_count("total_batch_size", total)
    if total % world_size:
        raise InputError(
            f"total_batch_size {total} does not divide over {world_size} processes; choose another "
            "number of processes, total_batch_size=N, or train_dataloader.batch_size=N per process"
        )
    loader.batch_size = total // world_size


def _check_count(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise InputError(f"{name} must be a positive whole number, got {value!r}")
