"""Walk through a config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from vmt_mm.registry import DATASETS

#: Where a config's datasets are.
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and content of every dictionary at or below ``node``."""
    children: list[tuple[str, Any]] = []
    if isinstance(node, dict):
        yield path, node
        children = [(f"{path}.{key}" if path else str(key), node[key]) for key in node]
    elif isinstance(node, (list, tuple)):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(node)]
    for child_path, child in children:
        yield from walk(child, child_path)


def dicts_in(node: Any) -> Iterator[Any]:
    """Yield every dictionary at or below ``node``."""
    return (entry for _, entry in walk(node))


def datasets_in(loader: Any) -> Iterator[Any]:
    """Yield the config of every dataset of a data loader, inside wrappers as well."""
    for entry in dicts_in((loader or {}).get("dataset")):
        if "data_root" in entry and "type" in entry:
            yield entry


def dataset_metainfo(loader: Any) -> dict[str, Any]:
    """Return the metainfo, by task, of a loader's datasets: of their configs and classes."""
    meta: dict[str, Any] = {}
    for entry in datasets_in(loader):
        kind = DATASETS.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]
        own = entry.get("metainfo")
        own = own if isinstance(own, dict) else {}
        meta = {**getattr(kind, "METAINFO", {}), **own, **meta}
    return {task: value if isinstance(value, dict) else {} for task, value in meta.items()}


def expand_home(node: Any) -> Any:
    """Return a copy of a config in which ``~`` at the start of a path is the home folder."""
    if isinstance(node, dict):
        return type(node)({key: expand_home(value) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)([expand_home(child) for child in node])
    if isinstance(node, str) and (node == "~" or node.startswith("~/")):
        return os.path.expanduser(node)
    return node
