"""Find the checkpoint to go on from."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mmengine.logging import print_log

from vmt_mm.checkpoints.files import is_intact, read_checkpoint
from vmt_mm.errors import InputError

#: Written when a signal ends a training between two regular checkpoints.
INTERRUPTED = "interrupted.pth"
#: Metrics of the last validation and the iteration at which it was made.
LAST_VALIDATION = "last_validation.json"
#: Entry of the message hub, and so of checkpoints, that holds the same.
VALIDATED = "last_validation"


def validated_iteration(work_dir: str | Path) -> int | None:
    """The iteration at which the work dir's last validation was made; None before the first."""
    path = Path(work_dir) / LAST_VALIDATION
    return json.loads(path.read_text())["iter"] if path.is_file() else None


def newest_checkpoint(work_dir: str | Path) -> str | None:
    """Path of the whole checkpoint that has trained longest; None where there is no checkpoint.

    Files of the work dir are looked at, and those beside the one that its ``last_checkpoint``
    names. Those that hold no optimizer, as the best ones do, are no candidates; a damaged one is
    passed over with a warning.

    Raises:
        InputError: if there are checkpoints and none is whole: to start anew would overwrite them.
    """
    iterations: dict[Path, int] = {}
    damaged: list[Path] = []
    for path in _files(Path(work_dir)):
        try:
            content = read_checkpoint(str(path), mmap=True)
        except InputError:
            damaged.append(path)
            continue
        if isinstance(content, dict) and "optimizer" in content:
            iteration = content.get("meta", {}).get("iter")
            if isinstance(iteration, int):
                iterations[path] = iteration
    for path in sorted(iterations, key=lambda p: (iterations[p], p.stat().st_mtime), reverse=True):
        if is_intact(path):
            _report(damaged, f"going on from {path}")
            return str(path)
        damaged.append(path)
    if damaged:
        raise InputError(
            f"{work_dir}: no checkpoint is whole, {', '.join(p.name for p in damaged)} cannot be "
            "read as one; move them away to start anew"
        )
    return None


def _files(work_dir: Path) -> list[Path]:
    folders = {work_dir}
    pointer = work_dir / "last_checkpoint"
    if pointer.is_file() and (last := pointer.read_text().strip()):
        folders.add(Path(last).parent)
    return sorted({p.resolve(): p for folder in folders for p in folder.glob("*.pth")}.values())


def _report(damaged: list[Path], outcome: str) -> None:
    for path in damaged:
        print_log(f"{path}: damaged checkpoint, passed over; {outcome}", "current", logging.WARNING)
