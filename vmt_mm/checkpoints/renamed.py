"""Names that earlier versions used in the configs in checkpoints and adapter files."""

from collections.abc import Mapping
from typing import Any

from vmt_mm.errors import InputError

#: The tool that updates files.
UPDATE = "python tools/model_converters/update_file.py"
#: Old key, or ``<type>.<old key>``, -> new key.
KEYS = {
    "joins_tasks": "batch_tasks",
    "immediate_losses": "eager_backward",
    "damaged": "on_error",
    "FiniteLossHook.action": "on_error",
}
#: New key -> old value -> new value.
VALUES: dict[Any, dict[str, str]] = {
    "type": {"DrawSampler": "SeededSampler"},
    "on_error": {"abort": "raise", "stop": "raise"},
}
#: Types without a replacement; their dictionaries are dropped.
REMOVED = {"StepTimeHook"}
#: Keys that are dropped.
REMOVED_KEYS = {"keep_features", "feature_cache_bytes"}


def with_new_names(node: Any) -> Any:
    """Copy a stored config and replace old names."""
    if isinstance(node, (list, tuple)):
        return type(node)(with_new_names(child) for child in node if not _is_removed(child))
    if not isinstance(node, Mapping):
        return node
    new: dict[Any, Any] = {}
    for key, child in node.items():
        if not _is_removed(child) and key not in REMOVED_KEYS:
            key = KEYS.get(f"{node.get('type')}.{key}") or KEYS.get(key, key)
            child = with_new_names(child)
            new[key] = VALUES.get(key, {}).get(child, child) if isinstance(child, str) else child
    return new


def _is_removed(node: Any) -> bool:
    return isinstance(node, Mapping) and str(node.get("type")) in REMOVED


def refuse_old_names(config: Mapping[str, Any], source: str) -> None:
    """Raise InputError if the config in the file ``source`` uses old names."""
    if with_new_names(config) != config:
        raise InputError(f"{source} uses names of an earlier version; run {UPDATE} {source} OUTPUT")
