"""Walk through a config: its entries, its datasets, and the files that a run reads."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.utils.files import check_outputs

#: Keys of a config's data loaders.
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield path and content of every dictionary in ``node``, itself included."""
    children: list[tuple[str, Any]] = []
    if isinstance(node, dict):
        yield path, node
        children = [(f"{path}.{key}" if path else str(key), node[key]) for key in node]
    elif isinstance(node, (list, tuple)):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(node)]
    for child_path, child in children:
        yield from walk(child, child_path)


def dicts_in(node: Any) -> Iterator[Any]:
    """Yield every dictionary in ``node``, itself included."""
    return (entry for _, entry in walk(node))


def datasets_in(loader: Any) -> Iterator[Any]:
    """Yield the config of every dataset of a data loader, including wrapped ones."""
    for entry in dicts_in((loader or {}).get("dataset")):
        if "data_root" in entry and "type" in entry:
            yield entry


def dataset_metainfo(loader: Any) -> dict[str, Any]:
    """Return ``{task: metainfo}`` of a loader's datasets; earlier datasets take precedence."""
    meta: dict[str, Any] = {}
    for entry in datasets_in(loader):
        kind = DATASETS.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]
        own = entry.get("metainfo") if isinstance(entry.get("metainfo"), dict) else {}
        meta = {**getattr(kind, "METAINFO", {}), **own, **meta}
    return {task: value if isinstance(value, dict) else {} for task, value in meta.items()}


def expand_home(node: Any) -> Any:
    """Copy a config and replace a leading ``~`` in paths by the home folder."""
    if isinstance(node, dict):
        return type(node)({key: expand_home(value) for key, value in node.items()})
    if isinstance(node, (list, tuple)):
        return type(node)([expand_home(child) for child in node])
    if isinstance(node, str) and (node == "~" or node.startswith("~/")):
        return os.path.expanduser(node)
    return node


def files_read(cfg: Mapping[str, Any]) -> list[str | Path]:
    """Return the config's own file, its weights, and the folders of its datasets."""
    model = cfg.get("model") or {}
    backbone = model.get("module", model).get("backbone") or {}
    given = [getattr(cfg, "filename", None), cfg.get("load_from"), backbone.get("pretrained")]
    return [path for path in given if path] + [p for own in data_folders(cfg) for p in own]


def data_folders(cfg: Mapping[str, Any]) -> list[Sequence[Path]]:
    """Return, per dataset, its root and the paths that are read: images, labels, `ann_file`."""
    found = {}
    for entry in (entry for loader in LOADERS for entry in datasets_in(cfg.get(loader))):
        root = Path(entry["data_root"] or "")
        tasks = entry.get("tasks") or {}
        labels = [task.get("folder") or name for name, task in dict(tasks).items()]
        parts = ["images", *labels, "splits"]
        lists = root / entry.get("ann_file", "splits/train.txt")
        found[str(lists)] = [root, *(root / part for part in parts), lists]
    return list(found.values())


def check_start(load_from: object, work_dir: str) -> None:
    """Raise InputError if training would overwrite the checkpoint that it starts from."""
    path = Path(str(load_from or ""))
    if path.is_file() and re.match(r"(epoch|iter)_\d+\.pth$|best_.*\.pth$", path.name):
        check_outputs(dict(work_dir=Path(work_dir, path.name)), [path])


def check_work_dir(cfg: Mapping[str, Any]) -> None:
    """Raise InputError if the work dir is a dataset's root, or is in a folder that is read."""
    work_dir: str = cfg.get("work_dir") or ""
    for root, *parts in data_folders(cfg) if work_dir else ():
        check_outputs(dict(work_dir=work_dir), parts, may_hold=True)  # names of files differ
        if Path(work_dir).is_dir() and root.is_dir() and Path(work_dir).samefile(root):
            raise InputError(f"work_dir {work_dir} is the root of a dataset; use another folder")
