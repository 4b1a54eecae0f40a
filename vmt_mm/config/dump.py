"""A config that tells user-set from derived values, and its text, which reproduces a run."""

import ast
import inspect
import os
from pprint import pformat
from typing import Any

from mmengine.config import Config

from vmt_mm.config.components import REGISTRIES
from vmt_mm.errors import InputError

_NOTHING = object()


class OrderedConfig(Config):
    """mmengine's ``Config`` with ordered keys, since the order of tasks affects initial values.

    ``to_dict`` and dumps omit the values that ``load_config`` derives.
    """

    def remember(self, user_set: dict[str, Any]) -> None:
        """Mark everything that differs from ``user_set`` as derived."""
        # setting it through `Config` would make it a key
        object.__setattr__(self, "_loaded", (super().to_dict(), user_set))

    def to_dict(self, keep_imported: bool = False) -> dict[str, Any]:
        """Return what the user set, with later changes, in plain containers."""
        content = super().to_dict(keep_imported)
        return _rebased(content, *vars(self).get("_loaded", (_NOTHING, content)))

    @property
    def pretty_text(self) -> str:
        """See :func:`config_text`."""
        return config_text(self)


def _rebased(now: Any, before: Any, user_set: Any) -> Any:
    """Return ``now``, with the user's value wherever nothing changed since ``before``."""
    if now == before:
        return user_set
    if all(isinstance(x, dict) for x in (now, before, user_set)):
        keys = {**user_set, **now}
        merged = {k: _rebased(*(x.get(k, _NOTHING) for x in (now, before, user_set))) for k in keys}
        return {key: value for key, value in merged.items() if value is not _NOTHING}
    if all(isinstance(x, list) for x in (now, before, user_set)) and len(before) == len(user_set):
        if len(now) == len(before):
            return [*map(_rebased, now, before, user_set)]
        return [user_set[before.index(x)] if x in before else x for x in now]
    return now


def config_text(cfg: Config, resolved: bool = False) -> str:
    """Return what the user set as text for ``Config.fromfile``; ``resolved`` writes all."""
    content = plain_config(cfg, resolved)
    loader = content.get("train_dataloader")
    if "_loaded" in vars(cfg) and content.get("total_batch_size") and isinstance(loader, dict):
        loader.pop("batch_size", None)  # derived
    lines = [f"{k} = {pformat(v, width=100, sort_dicts=False)}\n" for k, v in content.items()]
    return "".join(lines).replace("{{", "{\\x7b")  # mmengine would substitute a variable


def plain_config(cfg: Config, resolved: bool = True) -> dict[str, Any]:
    """Return a config in plain containers, classes by name; ``resolved`` as for the text."""
    content = Config.to_dict(cfg) if resolved else cfg.to_dict()
    # a top-level class is an import of the file
    return {k: _plain(value, k) for k, value in content.items() if not inspect.isclass(value)}


class _Infinity(float):
    def __repr__(self) -> str:
        return f"float('{float.__repr__(self)}')"


def _plain(value: Any, place: str) -> Any:
    """Convert a value to one that can be written as text; ``place`` is for errors."""
    if isinstance(value, dict):
        return {_plain(k, place): _plain(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(x, f"{place}[{index}]") for index, x in enumerate(value))
    if inspect.isclass(value) or inspect.isroutine(value):
        names = (n for r in REGISTRIES for n, kind in r.module_dict.items() if kind is value)
        path = f"{value.__module__}.{value.__qualname__}"
        value = next(names, path if place.endswith(".type") else value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()  # a NumPy scalar
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return _Infinity(value)
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    raise InputError(f"the config's {place} is {value!r}, which cannot be written as text")


def read_config_text(text: Any, source: str) -> dict[str, Any]:
    """Read a config of literals without running code. Raises InputError for other content."""
    config: dict[str, Any] = {}
    try:
        for statement in ast.parse(text).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    config[name] = ast.literal_eval(_Calls().visit(value))
                case _:
                    raise ValueError(f"line {statement.lineno} is not an assignment")
    except (SyntaxError, TypeError, ValueError) as error:
        raise InputError(f"{source}: the config cannot be read: {error}") from error
    if not config:
        raise InputError(f"{source}: the config is empty")
    return config


class _Calls(ast.NodeTransformer):
    """Replaces ``dict(a=1)`` and ``float('inf')`` by literals."""

    def visit_Call(self, node: ast.Call) -> ast.expr:  # noqa: N802  the library's name
        """Return the literal that equals a call."""
        match self.generic_visit(node):
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words):
                return ast.Dict([ast.Constant(w.arg) for w in words], [w.value for w in words])
            case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as content], keywords=[]):
                return content
            case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str() as number)]):
                return ast.Constant(float(number))
        return node
