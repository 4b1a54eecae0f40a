"""Which files a config makes a run read, and what a run may not write into."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vmt_mm.config.tree import LOADERS, datasets_in
from vmt_mm.errors import InputError
from vmt_mm.utils.files import check_outputs


def files_read(cfg: Mapping[str, Any]) -> list[str | Path]:
    """Return the config's own file, its weights, and the folders of its datasets."""
    model = cfg.get("model") or {}
    backbone = model.get("module", model).get("backbone") or {}
    given = [getattr(cfg, "filename", None), cfg.get("load_from"), backbone.get("pretrained")]
    return [path for path in given if path] + [p for own in data_folders(cfg) for p in own]


def data_folders(cfg: Mapping[str, Any]) -> list[Sequence[Path]]:
    """Return, for every dataset, its root and what is read of it: images, labels, list of ids."""
    found = {}
    for entry in (entry for loader in LOADERS for entry in datasets_in(cfg.get(loader))):
        root = Path(entry["data_root"] or "")
        parts = ["images", *(entry.get("tasks") or ()), "splits"]
        lists = root / entry.get("ann_file", "splits/train.txt")
        found[str(lists)] = [root, *(root / part for part in parts), lists]
    return list(found.values())


def check_start(load_from: object, work_dir: str) -> None:
    """Refuse to start a training from a checkpoint that the training itself will overwrite."""
    path = Path(str(load_from or ""))
    if path.is_file() and re.match(r"(epoch|iter)_\d+\.pth$|best_.*\.pth$", path.name):
        check_outputs(dict(work_dir=Path(work_dir, path.name)), [path])


def check_work_dir(cfg: Mapping[str, Any]) -> None:
    """Refuse a work dir that is a dataset's root, or lies in a folder that is read of it."""
    work_dir: str = cfg.get("work_dir") or ""
    for root, *parts in data_folders(cfg) if work_dir else ():
        check_outputs(dict(work_dir=work_dir), parts, may_hold=True)  # under other names
        if Path(work_dir).is_dir() and root.is_dir() and Path(work_dir).samefile(root):
            raise InputError(f"work_dir {work_dir} is the root of a dataset; choose another place")
