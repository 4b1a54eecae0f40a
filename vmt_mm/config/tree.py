"""Walk through a config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict

#: Where a config's data sets stand.
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def dicts_in(node: object) -> Iterator[ConfigDict]:
    """Every dictionary at or below ``node``."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from dicts_in(child)


def expand_home(node: Any) -> Any:
    """The same config with the home folder for ``~`` at the start of every path in it."""
    if isinstance(node, str):
        return os.path.expanduser(node) if node == "~" or node.startswith("~/") else node
    if isinstance(node, dict):
        for key, value in node.items():
            node[key] = expand_home(value)
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(expand_home(child) for child in node)
    return node
