"""Files that hold what a training has added to a frozen encoder: ``.safetensors`` without pickle.

Everything that is no tensor stands in the file's metadata as JSON. Reading one runs nothing: a
class that its config names must be registered already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmt_mm.checkpoints.tensor_file import CHECKSUM, read_metadata, read_tensors, write_tensors
from vmt_mm.errors import InputError

KIND, FORMAT_VERSION = "vmt_mm adapter", 1
#: JSON has neither; configs have both, and some classes take no list where a tuple is meant.
_TUPLE, _PAIRS = "__tuple__", "__pairs__"
#: What stands in the metadata, but for ``kind``; of these, :func:`write_adapter` adds the checksum.
_ENTRIES = {
    "config",
    "description",
    "frozen_encoder",
    "tasks",
    "classes",
    "palettes",
    "metrics",
    "package_version",
    "format_version",
    CHECKSUM,
}


@dataclass(frozen=True)
class Adapter:
    """What an adapter file holds.

    Attributes:
        tensors: key in the model -> weights; the frozen encoder's are not among them.
        config: the whole config, as :class:`mmengine.config.Config` takes it.
        description: of the model, see :func:`vmt_mm.loading.model.describe`.
        frozen: of the encoder, see :class:`vmt_mm.checkpoints.frozen.FrozenRecord`.
        dataset_meta: task -> ``dict(classes=..., palette=...)``, empty where a task has none.
        metrics: of a validation of exactly these weights; None if none is known.
        version: of the package that wrote it.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    description: Mapping[str, Any] = field(repr=False)
    frozen: Mapping[str, Any]
    dataset_meta: Mapping[str, Mapping[str, Any]] = field(repr=False)
    metrics: Mapping[str, float] | None
    version: str

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in the model's order."""
        return list(self.dataset_meta)

    def as_checkpoint(self) -> dict[str, Any]:
        """The same in the form of a training's checkpoint."""
        meta = dict(vmt_mm=self.description, frozen_encoder=self.frozen)
        meta["dataset_meta"] = self.dataset_meta
        return dict(meta=meta, state_dict=dict(self.tensors))


def is_adapter_file(path: str | Path) -> bool:
    """Tell whether a file is an adapter; one that cannot be read is none."""
    try:
        return read_metadata(Path(path).expanduser()).get("kind") == KIND
    except InputError:
        return False


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Write an adapter file atomically.

    Raises:
        InputError: if the config holds something that JSON cannot.
    """
    of_tasks = adapter.dataset_meta
    values = dict(
        config=to_json(adapter.config, "config"),
        description=to_json(adapter.description, "description"),
        frozen_encoder=dict(adapter.frozen),
        tasks=adapter.tasks,
        classes={t: _listed(meta.get("classes")) for t, meta in of_tasks.items()},
        palettes={t: _listed(meta.get("palette")) for t, meta in of_tasks.items()},
        metrics=None if adapter.metrics is None else dict(adapter.metrics),
        package_version=adapter.version,
        format_version=FORMAT_VERSION,
    )
    metadata = {key: json.dumps(value) for key, value in values.items()}
    write_tensors(path, adapter.tensors, dict(metadata, kind=KIND))


def read_adapter(path: str | Path, device: str = "cpu") -> Adapter:
    """Read an adapter file.

    Args:
        path: of the file.
        device: of the tensors.

    Raises:
        InputError: if it is missing, damaged, no adapter, of a later format, or not what was
            written, by its checksum; files of earlier versions have none.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such adapter file")
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise InputError(
            f"{path} is no adapter file: its metadata has no kind {KIND!r}; "
            "tools/model_converters/export_adapter.py writes one"
        )
    try:
        values = {key: json.loads(text) for key, text in metadata.items() if key != "kind"}
        if values["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{path} has format {values['format_version']} of adapter files (vmt_mm "
                f"{values.get('package_version')}); this version of vmt_mm reads {FORMAT_VERSION}"
            )
        if unknown := sorted(values.keys() - _ENTRIES):
            raise KeyError(f"unknown entries {unknown}")
        classes, palettes, metrics = values["classes"], values["palettes"], values["metrics"]
        named = {
            task: dict(classes=classes[task], palette=palettes[task]) for task in values["tasks"]
        }
        content = dict(
            config=from_json(values["config"]),
            description=from_json(values["description"]),
            frozen=values["frozen_encoder"],
            dataset_meta={
                task: {key: value for key, value in meta.items() if value is not None}
                for task, meta in named.items()
            },
            metrics=None if metrics is None else dict(metrics),
            version=str(values["package_version"]),
        )
        for key in ("config", "description", "frozen"):
            if not isinstance(content[key], dict):
                raise TypeError(f"{key} is no dictionary")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: damaged adapter file, its metadata cannot be read "
            f"({type(error).__name__}: {error})"
        ) from error
    return Adapter(tensors=read_tensors(path, device), **content)


def to_json(value: Any, path: str) -> Any:
    """Turn a config's value into what JSON holds; :func:`from_json` undoes it.

    Args:
        value: plain containers, numbers, texts.
        path: its place, for messages.

    Raises:
        InputError: for anything else; the message gives the place.
    """
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not {_TUPLE, _PAIRS} & set(value):
            return {key: to_json(child, f"{path}.{key}") for key, child in value.items()}
        pairs = [[to_json(k, path), to_json(v, f"{path}[{k!r}]")] for k, v in value.items()]
        return {_PAIRS: pairs}
    if isinstance(value, (list, tuple)):
        items = [to_json(child, f"{path}[{index}]") for index, child in enumerate(value)]
        return items if isinstance(value, list) else {_TUPLE: items}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(
        f"{path} is {value!r}, and an adapter file holds numbers, texts, lists and dictionaries "
        "alone; write a class by the name under which it is registered"
    )


def from_json(value: Any) -> Any:
    """Undo :func:`to_json`."""
    if isinstance(value, list):
        return [from_json(child) for child in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TUPLE}:
        return tuple(from_json(child) for child in value[_TUPLE])
    if value.keys() == {_PAIRS}:
        return {from_json(key): from_json(child) for key, child in value[_PAIRS]}
    return {key: from_json(child) for key, child in value.items()}


def _listed(value: Any) -> list | None:
    """Tuples and arrays of names or colours as lists."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor) or hasattr(value, "tolist"):
        return value.tolist()
    return [list(item) if isinstance(item, (list, tuple)) else item for item in value]
