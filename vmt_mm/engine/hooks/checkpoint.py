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

from vmt_mm.checkpoints.files import to_plain
from vmt_mm.checkpoints.newest import INTERRUPTED, LAST_VALIDATION, VALIDATED, validated_iteration
from vmt_mm.config.known_keys import nearest
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.files import write_bytes, write_json

#: Entry of the message hub: files that the checkpoint in which it stands replaces.
_OUTDATED = "outdated_checkpoints"


class _KeepingBackend:
    """A file backend that notes what it is to remove, also in the hub, and leaves it there."""

    def __init__(self, backend: Any, hub: MessageHub) -> None:
        self.backend, self.hub = backend, hub
        self.outdated: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Note a file."""
        self.outdated.append(path)
        self.hub.update_info(_OUTDATED, list(self.outdated))


@HOOKS.register_module()
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's ``CheckpointHook`` that never has less than one whole checkpoint on the disk.

    Files that a new checkpoint replaces are removed once it is written, where mmengine's removes
    them before; a checkpoint lists what it replaces, so that a run that is killed in between
    leaves nothing behind once it is resumed. ``last_checkpoint`` is written atomically.

    A validation without the metric of ``save_best`` (no reference for ``delta``, or a task without
    a label) keeps the best checkpoint so far and says so, where mmengine's ends the training.

    Args:
        save_frozen: save the frozen encoder too, which its own file has; see
            :class:`vmt_mm.engine.runner.MultiTaskRunner`.
        args, kwargs: of mmengine's ``CheckpointHook``.
    """

    def __init__(self, *args: Any, save_frozen: bool = False, **kwargs: Any) -> None:
        if not isinstance(save_frozen, bool):
            raise InputError(f"CheckpointHook: save_frozen must be True or False, {save_frozen!r}")
        known = inspect.signature(mmengine.hooks.CheckpointHook).parameters
        for key in kwargs.keys() - known.keys():  # mmengine's would fail at the first saving
            raise InputError(f"CheckpointHook takes no {key!r}{nearest(key, known)}")
        super().__init__(*args, **kwargs)
        self.save_frozen = save_frozen

    def before_train(self, runner: Runner) -> None:
        """Remove what the checkpoint that is resumed replaced."""
        known = runner.message_hub.runtime_info
        outdated, last = known.get(_OUTDATED, []), known.get("last_ckpt")
        super().before_train(runner)
        self._remove(runner, outdated)
        if last and self._is_own(last):
            self.last_ckpt = last  # so that a better score is written to it, too
        if is_main_process() and (validated_iteration(runner.work_dir) or 0) > runner.iter:
            (Path(runner.work_dir) / LAST_VALIDATION).unlink()  # of a run that went further

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, then note that this validation was made."""
        note = to_plain(dict(iter=runner.iter, metrics=metrics))
        runner.message_hub.update_info(VALIDATED, note)  # for what is saved from here on
        super().after_val_epoch(runner, metrics)
        if is_main_process():
            write_json(Path(runner.work_dir) / LAST_VALIDATION, note)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = list(runner.message_hub.runtime_info.get(_OUTDATED, []))
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                outdated.append(self.file_backend.join_path(self.out_dir, name))
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        outdated.append(self.file_backend.join_path(self.out_dir, INTERRUPTED))
        runner.message_hub.update_info(_OUTDATED, outdated)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_bytes(Path(runner.work_dir) / "last_checkpoint", self.last_ckpt.encode())
        self._remove(runner, outdated)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        wanted = [key for key in self.key_indicators if key != "auto"]
        missing = [key for key in wanted if key not in metrics]
        if missing:
            runner.logger.warning(
                f"save_best: this validation has no {', '.join(missing)}; it has "
                f"{', '.join(sorted(metrics))}"
            )
            return
        keeping = _KeepingBackend(self.file_backend, runner.message_hub)
        self.file_backend, backend = keeping, self.file_backend
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        self._remove(runner, keeping.outdated)

    def _remove(self, runner: Runner, paths: list[str]) -> None:
        """Remove outdated checkpoints of this run's folder.

        The list may come from a checkpoint of another folder, or of anyone's.
        """
        current = {str(value) for value in runner.message_hub.runtime_info.values()}
        for path in paths if is_main_process() else ():
            if self._is_own(path) and path not in current and self.file_backend.isfile(path):
                self.file_backend.remove(path)
        runner.message_hub.update_info(_OUTDATED, [])

    def _is_own(self, path: str) -> bool:
        return os.path.dirname(path) == str(self.out_dir) and path.endswith(".pth")
