"""Read the config that a checkpoint carries as text, without running it."""

from __future__ import annotations

import ast
from typing import Any

from vmt_mm.errors import InputError

_NOT_FINITE = ("float('inf')", "float('-inf')", "float('nan')")


def read_config_text(text: object, source: str) -> dict[str, Any]:
    """Read a config as ``config_text`` and mmengine write it: assignments of literals alone.

    A config file is a program; one that comes with a checkpoint is anyone's, and is not run.

    Args:
        text: of the config.
        source: where it stands, for messages.

    Raises:
        InputError: if it is no text, or holds anything but literals and ``dict(...)``.
    """
    try:
        statements = ast.parse(text).body if isinstance(text, str) else []
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{source} cannot be read: {error}") from error
    if not statements:
        raise InputError(f"{source}: no config stands there")
    config = {}
    for statement in statements:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Name) or len(statement.targets) > 1:
            raise InputError(f"{source}, line {statement.lineno}: no assignment `name = value`")
        config[target.id] = _value(statement.value, source)
    return config


def _value(node: ast.expr, source: str) -> Any:
    """The value of a literal, in which ``dict(...)`` may stand for ``{...}``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        if not node.keywords and [type(argument) for argument in node.args] == [ast.Dict]:
            return _value(node.args[0], source)  # where a key is no name
        if not node.args and all(keyword.arg for keyword in node.keywords):
            return {keyword.arg: _value(keyword.value, source) for keyword in node.keywords}
    elif ast.unparse(node) in _NOT_FINITE:
        return float(node.args[0].value)
    elif isinstance(node, ast.Dict) and all(node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(key, source): _value(value, source) for key, value in pairs}
    elif isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item, source) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    else:
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError):
            pass
    raise InputError(f"{source}, line {node.lineno}: {ast.unparse(node)[:60]} is no literal")
