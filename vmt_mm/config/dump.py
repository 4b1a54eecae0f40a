"""A config that knows what its user set, and its text: the same training when it is read again."""

from __future__ import annotations

import ast
import inspect
import os
from pprint import pformat
from typing import Any

from mmengine.config import Config

from vmt_mm.config.components import REGISTRIES
from vmt_mm.errors import InputError

_NOTHING = object()
#: What the text of a config may consist of, besides the calls ``dict(...)`` and ``float('inf')``.
_LITERALS = (ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.keyword, ast.expr_context)
_LITERALS += (ast.UnaryOp, ast.unaryop, ast.Call)


class OrderedConfig(Config):
    """mmengine's ``Config`` without derived values in its text, whose keys keep their order.

    What :func:`~vmt_mm.config.load.load_config` derived can be read from the config, but is neither
    in ``to_dict`` nor in dumps, so that it is derived again where these are loaded. mmengine sorts
    keys; but the order of tasks decides on their initial values.
    """

    @classmethod
    def of(cls, cfg: Config) -> OrderedConfig:
        """Return the same config; it shares all values."""
        if isinstance(cfg, cls):
            return cfg
        ordered = cls.__new__(cls)
        ordered.__dict__.update(cfg.__dict__)
        return ordered

    def remember(self, user_set: dict[str, Any]) -> None:
        """Take everything that differs from ``user_set`` as derived."""
        # not through `Config`, where it would become a key
        object.__setattr__(self, "_loaded", (super().to_dict(), user_set))

    def to_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        """Return what the user set, in plain containers, with changes that were made since."""
        content = super().to_dict(keep_imported)
        return _rebased(content, *vars(self).get("_loaded", (_NOTHING, content)))

    @property
    def pretty_text(self) -> str:
        """See :func:`config_text`."""
        return config_text(self)


def _rebased(now: Any, before: Any, user_set: Any) -> Any:
    """Return ``now``, but what the user set wherever nothing changed since ``before``."""
    if now == before:
        return user_set
    if all(isinstance(x, dict) for x in (now, before, user_set)):
        keys = {**user_set, **now}
        merged = {k: _rebased(*(x.get(k, _NOTHING) for x in (now, before, user_set))) for k in keys}
        return {key: value for key, value in merged.items() if value is not _NOTHING}
    if all(isinstance(x, list) for x in (now, before, user_set)) and len(before) == len(user_set):
        if len(now) == len(before):
            return [_rebased(*items) for items in zip(now, before, user_set, strict=True)]
        return [user_set[before.index(x)] if x in before else x for x in now]
    return now


def config_text(cfg: Config, resolved: bool = False) -> str:
    """Return a config as Python text, which ``Config.fromfile`` and ``read_config_text`` read.

    Classes are written by the name under which they are registered, or by their path. Of a loaded
    config ``train_dataloader.batch_size`` is left out, which ``total_batch_size`` gives.

    Args:
        cfg: the config.
        resolved: write derived values, too.

    Raises:
        InputError: if a value cannot be written as text; the message gives its key.
    """
    content = plain_config(cfg, resolved)
    loader = content.get("train_dataloader")
    if "_loaded" in vars(cfg) and content.get("total_batch_size") and isinstance(loader, dict):
        loader.pop("batch_size", None)
    lines = [f"{k} = {pformat(v, width=100, sort_dicts=False)}\n" for k, v in content.items()]
    return "".join(lines).replace("{{", "{\\x7b")  # mmengine would read a variable of its own


def plain_config(cfg: Config, resolved: bool = True) -> dict[str, Any]:
    """Return a config in plain containers, with derived values or without; classes by name."""
    content = Config.to_dict(cfg) if resolved else cfg.to_dict()
    # a class is what the file imported for its own use
    return {k: _plain(value, k) for k, value in content.items() if not inspect.isclass(value)}


class _Infinity(float):
    def __repr__(self) -> str:
        return f"float('{float.__repr__(self)}')"


def _plain(value: Any, place: str) -> Any:
    """Return a value as what can be written as text; ``place`` is for messages."""
    if isinstance(value, dict):
        return {_plain(k, place): _plain(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(x, f"{place}[{index}]") for index, x in enumerate(value))
    if inspect.isclass(value) or inspect.isroutine(value):
        names = (n for r in REGISTRIES for n, kind in r.module_dict.items() if kind is value)
        path = f"{value.__module__}.{value.__qualname__}"
        value = next(names, path if place.endswith(".type") else value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of NumPy's
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return _Infinity(value)
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise InputError(
        f"the config's {place} is {value!r}, which cannot be written as text; write a class as "
        "`type`, by the name under which it is registered"
    )


def read_config_text(text: Any, source: str) -> dict[str, Any]:
    """Read a config as this module and mmengine write it; nothing but literals is run.

    Raises:
        InputError: if it holds anything but assignments of literals; ``source`` is for messages.
    """
    try:
        statements = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{source} cannot be read: {error}") from error
    if not statements:
        raise InputError(f"{source}: no config stands there")
    config: dict[str, Any] = {}
    for statement in statements:
        place = f"{source}, line {statement.lineno}"
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                called = [node.func for node in ast.walk(value) if isinstance(node, ast.Call)]
            case _:
                raise InputError(f"{place}: no assignment `name = value`")
        named = [function for function in called if ast.unparse(function) in ("dict", "float")]
        for node in ast.walk(value):
            if not isinstance(node, _LITERALS) and node not in named:
                raise InputError(f"{place}: {ast.unparse(node)[:60]} is no literal")
        code = compile(ast.Expression(value), source, "eval")
        config[name] = eval(code, {"__builtins__": {}, "dict": dict, "float": float})
    return config
