"""Walk through a config."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import ConfigDict

from vmt_mm.registry import DATASETS

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


def typed_in(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every dictionary with a type at or below ``node``, and its path."""
    if isinstance(node, Mapping):
        if "type" in node:
            yield path, node
        for key, child in node.items():
            yield from typed_in(child, f"{path}.{key}")
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from typed_in(child, f"{path}[{index}]")


def dataset_metainfo(loader: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metainfo by task of a loader's data sets, of their classes and of their configs."""
    merged: dict[str, Any] = {}
    for entry in dicts_in((loader or {}).get("dataset")):
        if "data_root" in entry and "type" in entry:
            kind = DATASETS.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]
            given = entry.get("metainfo")
            given = given if isinstance(given, Mapping) else {}
            for task, meta in {**getattr(kind, "METAINFO", {}), **given}.items():
                merged.setdefault(task, meta if isinstance(meta, Mapping) else {})
    return merged
