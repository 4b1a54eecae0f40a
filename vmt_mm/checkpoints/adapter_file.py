"""The format of adapter files: the tensors added to a frozen backbone, and metadata as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vmt_mm.checkpoints.tensor_file import CHECKSUM, read_metadata, read_tensors, write_tensors
from vmt_mm.errors import InputError

KIND, FORMAT_VERSION = "vmt_mm adapter", 1
#: JSON lacks tuples and keys that are not strings; configs have both, some classes need tuples.
_TUPLE, _PAIRS = "__tuple__", "__pairs__"
_ENTRIES = {
    *("config", "description", "frozen_encoder", "tasks", "classes", "palettes", "metrics"),
    *("notes", "package_version", "format_version", CHECKSUM),
}


@dataclass(frozen=True)
class Adapter:
    """Content of an adapter file."""

    tensors: Mapping[str, Tensor]  # without those of the frozen backbone
    config: Mapping[str, Any]  # resolved, in plain containers
    description: Mapping[str, Any]  # of the model, see `loading.model.describe`
    frozen: Mapping[str, Any]  # of the backbone, see `FrozenRecord`
    dataset_meta: Mapping[str, Mapping[str, Any]]  # task -> dict(classes=..., palette=...)
    metrics: Mapping[str, float] | None  # of a validation run of exactly these weights
    version: str  # of the package that wrote it
    notes: Mapping[str, str] = field(default_factory=dict)  # texts by name, such as the licence

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the model's order."""
        return list(self.dataset_meta)

    def as_checkpoint(self) -> dict[str, Any]:
        """Convert to the form of a training checkpoint."""
        meta = dict(vmt_mm=self.description, frozen_encoder=self.frozen)
        return dict(meta=dict(meta, dataset_meta=self.dataset_meta), state_dict=dict(self.tensors))


def is_adapter_file(path: str | Path) -> bool:
    """Whether a file is a readable adapter file."""
    try:
        return read_metadata(Path(path).expanduser()).get("kind") == KIND
    except InputError:
        return False


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Write an adapter file atomically; raise InputError if JSON cannot represent its config."""
    meta = adapter.dataset_meta
    values = dict(
        config=to_json(adapter.config, "config"),
        description=to_json(adapter.description, "description"),
        frozen_encoder=dict(adapter.frozen),
        tasks=adapter.tasks,
        classes={task: of_task.get("classes") for task, of_task in meta.items()},
        palettes={task: of_task.get("palette") for task, of_task in meta.items()},
        metrics=adapter.metrics,
        package_version=adapter.version,
        format_version=FORMAT_VERSION,
        **(dict(notes=dict(adapter.notes)) if adapter.notes else {}),
    )
    metadata = {k: json.dumps(v, default=lambda array: array.tolist()) for k, v in values.items()}
    write_tensors(path, adapter.tensors, dict(metadata, kind=KIND))


def read_adapter(path: str | Path, device: str = "cpu") -> Adapter:
    """Read an adapter file; raise InputError if it is missing, damaged, or not an adapter."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such adapter file")
    metadata = read_metadata(path)
    if metadata.pop("kind", None) != KIND:
        raise InputError(
            f"{path} is not an adapter file; write one by tools/model_converters/export_adapter.py"
        )
    try:
        values = {key: json.loads(text) for key, text in metadata.items()}
        if (version := values["format_version"]) != FORMAT_VERSION:
            raise InputError(f"{path} has format {version}; this vmt_mm reads {FORMAT_VERSION}")
        if unknown := sorted(values.keys() - _ENTRIES):
            raise KeyError(f"unknown entries {unknown}")
        named = {"classes": "classes", "palette": "palettes"}
        adapter = Adapter(
            tensors=read_tensors(path, device),
            config=from_json(values["config"]),
            description=from_json(values["description"]),
            frozen=values["frozen_encoder"],
            dataset_meta={
                task: {k: v for k, e in named.items() if (v := values[e][task]) is not None}
                for task in values["tasks"]
            },
            metrics=values["metrics"],
            version=str(values["package_version"]),
            notes=values.get("notes", {}),
        )
        if not all(isinstance(d, dict) for d in (adapter.config, adapter.description)):
            raise TypeError("config and description must be dictionaries")
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged adapter file, wrong metadata ({error!r})") from error
    return adapter


def to_json(value: Any, path: str) -> Any:
    """Convert plain containers, numbers and strings to JSON; ``path`` is for errors."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not {_TUPLE, _PAIRS} & value.keys():
            return {key: to_json(child, f"{path}.{key}") for key, child in value.items()}
        return {_PAIRS: to_json([list(pair) for pair in value.items()], path)}
    if isinstance(value, tuple):
        return {_TUPLE: to_json(list(value), path)}
    if isinstance(value, list):
        return [to_json(child, f"{path}[{index}]") for index, child in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"{path} is {value!r}, but an adapter file can store only plain values")


def from_json(value: Any) -> Any:
    """Undo :func:`to_json`."""
    if isinstance(value, list):
        return [from_json(child) for child in value]
    if not isinstance(value, dict):
        return value
    content = {key: from_json(child) for key, child in value.items()}
    if content.keys() == {_TUPLE}:
        return tuple(content[_TUPLE])
    return dict(content[_PAIRS]) if content.keys() == {_PAIRS} else content
