"""Top-level variables of a config file that its base has used already."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmt_mm.config.known_keys import OF_TTA, TOP_LEVEL
from vmt_mm.errors import InputError


def check_variables(path: str | Path, cfg: Mapping, bases: Sequence[Mapping]) -> None:
    """Refuse a variable of a base file that the file sets to another value and does not use.

    The base's own places got their value when it was read, so ``train_pipeline = [...]`` alone
    would leave the base's pipeline in force.

    Args:
        path: of the file.
        cfg: its content, bases included.
        bases: what it builds on, nearest first.

    Raises:
        InputError: with one line for each of them.
    """
    if not bases or Path(path).suffix != ".py":
        return
    tree = ast.parse(Path(os.path.expanduser(path)).read_text("utf-8"))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    faults = []
    for node in tree.body:
        for target in node.targets if isinstance(node, ast.Assign) else ():
            name = getattr(target, "id", None)
            base = next((base for base in bases if name in base), None)
            if base is None or name in read | TOP_LEVEL | OF_TTA or base[name] == cfg.get(name):
                continue
            place = next(_places(base, base[name], name), "what should have it")
            faults.append(
                f"{path}: the top-level {name!r} reaches nothing, since the base file has used its "
                f"own value already; set {place} to it as well"
            )
    if faults:
        raise InputError("\nerror: ".join(faults))


def _places(base: Mapping, value: Any, name: str) -> Iterator[str]:
    """Where a base file has used a variable of its own, as far as its value tells."""
    if isinstance(value, (dict, list, tuple)):
        for key in base.keys() & (TOP_LEVEL | OF_TTA):
            yield from _equal(base[key], value, key)


def _equal(node: Any, value: Any, path: str) -> Iterator[str]:
    if node == value:
        yield path
    elif isinstance(node, (dict, list, tuple)):
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in children:
            yield from _equal(child, value, f"{path}.{key}")
