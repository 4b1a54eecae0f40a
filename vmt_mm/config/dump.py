"""A config that knows what its user set, and its text: the same training when it is read again."""

from __future__ import annotations

import ast
import inspect
import math
import os
from collections.abc import Mapping
from keyword import iskeyword
from typing import Any

from mmengine.config import Config

from vmt_mm.config.components import REGISTRIES
from vmt_mm.errors import InputError

#: In place of what is not there.
_NOTHING = object()
#: Nodes of literals.
_ALLOWED = (ast.Constant, ast.Dict, ast.List, ast.Tuple, ast.Set, ast.expr_context)
_ALLOWED += (ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator)


class OrderedConfig(Config):
    """mmengine's ``Config`` without derived values in its text, whose keys keep their order.

    What :func:`~vmt_mm.config.load.load_config` derived, such as components' defaults, can be read
    from the config, but is neither in ``to_dict`` nor in dumps, so that it is derived again where
    these are loaded. mmengine sorts keys; but the order of tasks decides on their initial values.
    """

    @classmethod
    def of(cls, cfg: Config) -> OrderedConfig:
        """Return the same config; it shares all values."""
        if isinstance(cfg, cls):
            return cfg
        ordered = cls.__new__(cls)
        ordered.__dict__.update(cfg.__dict__)
        return ordered

    def remember(self, user_set: Mapping[str, Any]) -> None:
        """Take everything that differs from ``user_set`` as derived."""
        # not through `Config`, where it would become a key
        object.__setattr__(self, "_loaded", (user_set, super().to_dict()))

    def to_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        """Return what the user set, in plain containers, with changes that were made since."""
        content = super().to_dict(keep_imported)
        loaded = vars(self).get("_loaded")
        return _rebased(content, loaded[1], loaded[0]) if loaded else content

    @property
    def pretty_text(self) -> str:
        """See :func:`config_text`."""
        return config_text(self)


def _rebased(now: Any, before: Any, user_set: Any) -> Any:
    """Return ``now``, but what the user set wherever nothing changed since ``before``."""
    if now == before:
        return user_set
    if all(isinstance(x, dict) for x in (now, before, user_set)):
        merged = {
            key: _rebased(*(x.get(key, _NOTHING) for x in (now, before, user_set)))
            for key in {**user_set, **now}
        }
        return {key: value for key, value in merged.items() if value is not _NOTHING}
    if all(isinstance(x, list) for x in (now, before, user_set)) and len(before) == len(user_set):
        if len(now) == len(before):
            return [_rebased(*items) for items in zip(now, before, user_set, strict=True)]
        return [user_set[before.index(x)] if x in before else x for x in now]
    return now


def config_text(cfg: Config) -> str:
    """Return a config as Python text, which ``Config.fromfile`` and ``read_config_text`` read.

    Classes are written by the name under which they are registered, or by their path.
    A loaded config leaves out ``train_dataloader.batch_size``, which ``total_batch_size`` gives for
    any number of processes.

    Raises:
        InputError: if a value cannot be written as text; the message gives its key.
    """
    content = cfg.to_dict()
    loader = content.get("train_dataloader")
    if "_loaded" in vars(cfg) and content.get("total_batch_size") and isinstance(loader, dict):
        loader.pop("batch_size", None)
    return _text_of(content)


def resolved_text(cfg: Config) -> str:
    """Return a config with all derived values as Python text."""
    return _text_of(Config.to_dict(cfg))


def plain_config(cfg: Config) -> dict[str, Any]:
    """Return a config with all derived values, in plain containers; classes by their names."""
    return read_config_text(resolved_text(cfg), "the config")


def _text_of(content: dict[str, Any]) -> str:
    lines = []
    for key, value in content.items():
        if not _is_name(key):
            raise InputError(f"the config's top-level key {key!r} is not a name of Python")
        if not inspect.isclass(value):  # what the file imported for its own use
            lines.append(f"{key} = {_text(value, key)}\n")
    return "".join(lines)


def _text(value: Any, place: str, indent: str = "") -> str:
    """Return a value as text: on one line where it fits, else one line for each child."""
    deeper = indent + "    "
    if isinstance(value, dict):
        named = all(map(_is_name, value))
        brackets = ("dict(", ")") if named else ("{", "}")
        parts = [
            (f"{key}=" if named else f"{_text(key, place)}: ")
            + _text(child, f"{place}.{key}", deeper)
            for key, child in value.items()
        ]
    elif isinstance(value, (list, tuple)):
        brackets = ("[", "]") if isinstance(value, list) else ("(", ")")
        parts = [_text(x, f"{place}[{index}]", deeper) for index, x in enumerate(value)]
    else:
        return _scalar(value, place)
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    line = f"{brackets[0]}{', '.join(parts)}{comma}{brackets[1]}"
    if len(indent) + len(line) < 80 and "\n" not in line:
        return line
    rows = "".join(f"{deeper}{part},\n" for part in parts)
    return f"{brackets[0]}\n{rows}{indent}{brackets[1]}"


def _scalar(value: Any, place: str) -> str:
    if inspect.isclass(value):
        names = (n for r in REGISTRIES for n, kind in r.module_dict.items() if kind is value)
        value = next(names, value)
    if place.endswith(".type") and (inspect.isclass(value) or inspect.isroutine(value)):
        value = f"{value.__module__}.{value.__qualname__}"
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a number of NumPy's
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, str):  # mmengine would read double braces as one of its variables
        return repr(value).replace("{{", "{\\x7b")
    if value is None or isinstance(value, (bool, int, float, complex, bytes)):
        return repr(value)
    if isinstance(value, set) and value:
        return f"{{{', '.join(sorted(_scalar(child, place) for child in value))}}}"
    raise InputError(
        f"the config's {place} is {value!r}, which cannot be written as text; write a class as "
        "`type`, by the name under which it is registered"
    )


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isidentifier() and not iskeyword(key)


def read_config_text(text: Any, source: str) -> dict[str, Any]:
    """Read a config as this module and mmengine write it, without running it.

    Args:
        text: assignments of literals, among them ``dict(...)``.
        source: where it comes from, for messages.

    Raises:
        InputError: if it holds anything else.
    """
    try:
        statements = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{source} cannot be read: {error}") from error
    if not statements:
        raise InputError(f"{source}: no config stands there")
    config = {}
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if not isinstance(statement, ast.Assign) or len(names) != 1 or len(targets) != 1:
            raise InputError(f"{source}, line {statement.lineno}: no assignment `name = value`")
        value = _Literals().visit(statement.value)
        for node in ast.walk(value):
            if not isinstance(node, _ALLOWED):
                what = ast.unparse(node)[:60]
                raise InputError(f"{source}, line {statement.lineno}: {what} is no literal")
        config[names[0]] = ast.literal_eval(value)
    return config


class _Literals(ast.NodeTransformer):
    """Makes literals of ``dict(...)`` and ``float('inf')``."""

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802
        """Replace a call of one of the two."""
        self.generic_visit(node)
        name = getattr(node.func, "id", None)
        if name == "dict" and not node.args and all(k.arg for k in node.keywords):
            keys: list[ast.expr | None] = [ast.Constant(k.arg) for k in node.keywords]
            return ast.Dict(keys, [k.value for k in node.keywords])
        if name == "dict" and not node.keywords and isinstance(node.args[0], ast.Dict):
            return node.args[0]
        if name == "float" and not node.keywords and isinstance(node.args[0], ast.Constant):
            return ast.Constant(float(node.args[0].value))  # type: ignore[arg-type]
        return node
