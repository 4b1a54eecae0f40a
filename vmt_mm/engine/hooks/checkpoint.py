"""When checkpoints are written, and when older ones may go."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import mmengine.hooks
from mmengine.dist import is_main_process
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from vmt_mm.checkpoints import files
from vmt_mm.config.components import nearest
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.files import write_json

#: Entry of the message hub, and so of a checkpoint: the files that the checkpoint replaces.
_OUTDATED = "outdated_checkpoints"


class _LateRemovals:
    """A file backend that only notes in the message hub what it is to remove."""

    def __init__(self, backend: Any, hub: MessageHub) -> None:
        self.backend, self.hub = backend, hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Note a file."""
        self.hub.update_info(_OUTDATED, [*self.hub.get_info(_OUTDATED, []), path])


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's ``CheckpointHook`` that always leaves a complete checkpoint on the disk.

    Older files are removed after the newer one is written, where mmengine's removes them before; a
    checkpoint lists what it replaces, for a run that was killed in between. A validation without
    the metric of ``save_best`` warns. ``save_frozen`` saves the frozen backbone too.
    """

    def __init__(self, *args: Any, save_frozen: bool = False, **kwargs: Any) -> None:
        known = inspect.signature(mmengine.hooks.CheckpointHook).parameters
        for key in kwargs.keys() - known.keys():  # mmengine's would fail at the first checkpoint
            raise InputError(f"CheckpointHook takes no {key!r}{nearest(key, known)}")
        super().__init__(*args, **kwargs)
        self.save_frozen = save_frozen

    def before_train(self, runner: Runner) -> None:
        """Remove what the resumed checkpoint replaced, and the note of a later validation."""
        super().before_train(runner)
        last = runner.message_hub.get_info("last_ckpt")
        if last and self._is_own(last):
            self.last_ckpt = last  # so that a better score is written to it, too
        self._remove_outdated(runner)
        self.file_backend = _LateRemovals(self.file_backend, runner.message_hub)
        if is_main_process() and (files.validated_iteration(runner.work_dir) or 0) > runner.iter:
            (Path(runner.work_dir) / files.LAST_VALIDATION).unlink()

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, then note that this validation was made."""
        note = files.to_plain(dict(iter=runner.iter, metrics=metrics))
        runner.message_hub.update_info(files.VALIDATED, note)  # for the checkpoints from here on
        wanted = self.key_indicators if self.save_best else ()
        if missing := set(wanted) - {"auto", *metrics}:
            there = ", ".join(sorted(metrics))
            runner.logger.warning(f"save_best: no {', '.join(missing)} in this validation: {there}")
        else:
            super().after_val_epoch(runner, metrics)
            self._remove_outdated(runner)
        if is_main_process():
            write_json(Path(runner.work_dir) / files.LAST_VALIDATION, note)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # all of mmengine's ways to a regular checkpoint meet here
        self.file_backend.remove(os.path.join(self.out_dir, files.INTERRUPTED))
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated(runner)

    def _remove_outdated(self, runner: Runner) -> None:
        """Remove the noted files of this run's folder; a resumed note may name other folders."""
        backend = getattr(self.file_backend, "backend", self.file_backend)
        info = runner.message_hub.runtime_info
        current = {str(value) for value in info.values()}
        for path in info.get(_OUTDATED, ()) if is_main_process() else ():
            if self._is_own(path) and path not in current and backend.isfile(path):
                backend.remove(path)
        runner.message_hub.update_info(_OUTDATED, [])

    def _is_own(self, path: str) -> bool:
        return os.path.dirname(path) == str(self.out_dir) and path.endswith(".pth")
