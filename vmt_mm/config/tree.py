"""Walk through a config."""

from __future__ import annotations

from collections.abc import Iterator

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
