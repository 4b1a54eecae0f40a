"""Write a config as text: the same training when it is read again."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Mapping
from keyword import iskeyword
from typing import Any

from mmengine.config import Config
from mmengine.dist import get_world_size

from vmt_mm.config.known_keys import REGISTRIES
from vmt_mm.errors import InputError

_WIDTH, _INDENT = 100, "    "
_CLASSES = "write a class as `type`, by the name under which it is registered"


class OrderedConfig(Config):
    """mmengine's ``Config`` whose text keeps the order of keys.

    mmengine sorts them. The order of tasks decides which random initial values they get, so a
    config that is written and read again would be another training.
    """

    @classmethod
    def of(cls, cfg: Config) -> OrderedConfig:
        """The same config; shares all values."""
        if isinstance(cfg, cls):
            return cfg
        ordered = cls.__new__(cls)
        ordered.__dict__.update(cfg.__dict__)
        return ordered

    @property
    def pretty_text(self) -> str:
        """See :func:`config_text`."""
        return config_text(self)


def config_text(cfg: Config) -> str:
    """A config as Python text, which both ``Config.fromfile`` and ``read_config_text`` read.

    Keys keep their order, tuples stay tuples. Classes are written by the name under which they are
    registered, or by their path. ``train_dataloader.batch_size`` is left out where
    ``total_batch_size`` gives it for this number of processes: so it does for any other.

    Raises:
        InputError: if a value cannot be written as text; the message gives its key.
    """
    content = plain_config(cfg)
    loader, total = content.get("train_dataloader"), content.get("total_batch_size")
    size = loader.get("batch_size") if isinstance(loader, Mapping) else None
    if size is not None and total == size * get_world_size():
        content["train_dataloader"] = {k: v for k, v in loader.items() if k != "batch_size"}
    lines = []
    for key, value in content.items():
        if not _is_name(key):
            raise InputError(f"the config's top-level key {key!r} is not a name of Python")
        lines.append(_written(f"{key} = ", value, "", str(key)))
    return "\n".join(lines) + "\n"


def plain_config(cfg: Config) -> dict[str, Any]:
    """A config in plain containers, classes by the names under which they are registered.

    A class at the top is what the file imported for its own use.
    """
    content = cfg.to_dict().items()
    return {key: _with_names(value) for key, value in content if not inspect.isclass(value)}


def _with_names(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _with_names(child) for key, child in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_with_names(child) for child in node)
    if inspect.isclass(node):
        names = (n for r in REGISTRIES for n, kind in r.module_dict.items() if kind is node)
        return next(names, node)
    return node


def _written(start: str, value: Any, indent: str, place: str) -> str:
    """``start`` and the value, on one line where it fits, else one line for each child."""
    line = f"{indent}{start}{_inline(value, place)}"
    if len(line) < _WIDTH or not isinstance(value, (dict, list, tuple)) or not value:
        return line
    opening, closing = _brackets(value)
    deeper = indent + _INDENT
    lines = [_written(s, v, deeper, p) + "," for s, v, p in _children(value, place)]
    return "\n".join([f"{indent}{start}{opening}", *lines, f"{indent}{closing}"])


def _brackets(value: dict | list | tuple) -> tuple[str, str]:
    if isinstance(value, dict):
        return ("dict(", ")") if all(map(_is_name, value)) else ("{", "}")
    return ("[", "]") if isinstance(value, list) else ("(", ")")


def _children(value: dict | list | tuple, place: str) -> Iterator[tuple[str, Any, str]]:
    """What stands before each child, the child, and its place."""
    if isinstance(value, dict):
        named = all(map(_is_name, value))
        for key, child in value.items():
            inner = f"{place}.{key}"
            yield f"{key}=" if named else f"{_inline(key, inner)}: ", child, inner
    else:
        for index, child in enumerate(value):
            yield "", child, f"{place}[{index}]"


def _inline(value: Any, place: str) -> str:
    """The value on one line."""
    if isinstance(value, (dict, list, tuple)):
        opening, closing = _brackets(value)
        parts = [start + _inline(child, inner) for start, child, inner in _children(value, place)]
        comma = "," * (isinstance(value, tuple) and len(value) == 1)
        return f"{opening}{', '.join(parts)}{comma}{closing}"
    if place.endswith(".type") and (inspect.isclass(value) or inspect.isroutine(value)):
        value = f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of NumPy's
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, (str, bytes)):  # braces would be read as a variable of mmengine's
        return repr(value).replace("{{", "{\\x7b")
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    if isinstance(value, set) and value:
        parts = sorted(_inline(child, place) for child in value)
        return f"{{{', '.join(parts)}}}"
    raise InputError(f"the config's {place} is {value!r}, which no text gives back; {_CLASSES}")


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isidentifier() and not iskeyword(key)
