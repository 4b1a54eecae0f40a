"""When to write checkpoints and when to remove older ones."""

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

#: Entry of the message hub, and so of a checkpoint: the files that this checkpoint replaces.
_OUTDATED = "outdated_checkpoints"


class _LateRemovals:
    """A file backend that records removals in the message hub instead of performing them."""

    def __init__(self, backend: Any, hub: MessageHub) -> None:
        self.backend, self.hub = backend, hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Record a file."""
        self.hub.update_info(_OUTDATED, [*self.hub.get_info(_OUTDATED, []), path])


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's ``CheckpointHook``, which never leaves the disk without a complete checkpoint.

    Older files are removed after the new one is written; mmengine removes them before. A checkpoint
    lists the files that it replaces, so that a resumed run can remove them. Validation without
    the metric of ``save_best`` logs a warning. ``save_frozen`` also saves the frozen backbone.
    """

    def __init__(self, *args: Any, save_frozen: bool = False, **kwargs: Any) -> None:
        known = inspect.signature(mmengine.hooks.CheckpointHook).parameters
        for key in kwargs.keys() - known.keys():  # mmengine would fail at the first checkpoint
            raise InputError(f"CheckpointHook: unknown argument {key!r}{nearest(key, known)}")
        super().__init__(*args, **kwargs)
        self.save_frozen = save_frozen

    def before_train(self, runner: Runner) -> None:
        """Remove what the resumed checkpoint replaced, and the record of a later validation."""
        super().before_train(runner)
        last = runner.message_hub.get_info("last_ckpt")
        if last and self._is_own(last):
            self.last_ckpt = last  # so that a better score is also written to it
        self._remove_outdated(runner)
        self.file_backend = _LateRemovals(self.file_backend, runner.message_hub)
        if is_main_process() and (files.validated_iteration(runner.work_dir) or 0) > runner.iter:
            (Path(runner.work_dir) / files.LAST_VALIDATION).unlink()

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, then record these metrics."""
        note = files.to_plain(dict(iter=runner.iter, metrics=metrics))
        runner.message_hub.update_info(files.VALIDATED, note)  # for the checkpoints from here on
        wanted = self.key_indicators if self.save_best else ()
        if missing := set(wanted) - {"auto", *metrics}:
            text = f"lacks {', '.join(missing)}; it has {', '.join(sorted(metrics))}"
            runner.logger.warning(f"save_best: this validation run {text}")
        else:
            super().after_val_epoch(runner, metrics)
            self._remove_outdated(runner)
        if is_main_process():
            write_json(Path(runner.work_dir) / files.LAST_VALIDATION, note)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # every regular checkpoint of mmengine goes through this method
        self.file_backend.remove(os.path.join(self.out_dir, files.INTERRUPTED))
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_outdated(runner)

    def _remove_outdated(self, runner: Runner) -> None:
        """Remove the recorded files in this run's folder; a resumed record may name others."""
        backend = getattr(self.file_backend, "backend", self.file_backend)
        info = runner.message_hub.runtime_info
        current = {str(value) for value in info.values()}
        for path in info.get(_OUTDATED, ()) if is_main_process() else ():
            if self._is_own(path) and path not in current and backend.isfile(path):
                backend.remove(path)
        runner.message_hub.update_info(_OUTDATED, [])

    def _is_own(self, path: str) -> bool:
        return os.path.dirname(path) == str(self.out_dir) and path.endswith(".pth")
