"""Names in configs that earlier versions stored in checkpoints and adapter files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmt_mm.errors import InputError

#: Old key of a dictionary -> new key.
KEYS = {
    "joins_tasks": "batch_tasks",
    "keep_features": "feature_cache_bytes",
    "immediate_losses": "eager_backward",
}
#: Old ``type`` -> new one.
TYPES = {"DrawSampler": "SeededSampler"}


def with_new_names(node: Any) -> Any:
    """A copy of a stored config, in which old names are replaced."""
    if isinstance(node, (list, tuple)):
        return type(node)(with_new_names(child) for child in node)
    if not isinstance(node, Mapping):
        return node
    new = {KEYS.get(key, key): with_new_names(child) for key, child in node.items()}
    if isinstance(new.get("type"), str):
        new["type"] = TYPES.get(new["type"], new["type"])
    return new


def refuse_old_names(config: Mapping[str, Any], source: str) -> None:
    """Raise InputError if the config in the file ``source`` uses old names."""
    if with_new_names(config) != config:
        raise InputError(
            f"{source} was written by an earlier version, and its config uses names that have "
            f"changed: run python tools/model_converters/update_file.py {source} NEW"
        )
