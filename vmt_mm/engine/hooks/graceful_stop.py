"""End a training with a checkpoint when a signal asks for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner

from vmt_mm.checkpoints.files import INTERRUPTED
from vmt_mm.registry import HOOKS

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Launchers repeat what the terminal has sent to everyone: within so many seconds it is one signal.
_SAME_SIGNAL_S = 2.0


class InterruptedTraining(SystemExit):
    """A training ended by a signal, with a checkpoint; exits with 128 + the signal's number."""


@HOOKS.register_module()
class GracefulStopHook(Hook):
    """SIGTERM and SIGINT end the training at the next step, with a checkpoint to resume from.

    During a validation the step is one of the validation, which a resumed training repeats.
    Processes agree by one number that travels while the next step computes, so several processes
    stop one step later. A second signal ends at once.
    """

    priority = "LOWEST"  # everything else has seen the step that is saved

    def __init__(self) -> None:
        self._received, self._received_at = 0, 0.0
        self._handlers: dict[int, Any] = {}  # those before the training
        self._travelling: torch.Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Take the signals, where that is possible: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def release(self) -> None:
        """Give the signals back; the runner calls it however the training ends."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop here if a signal came."""
        self._stop_if_asked(runner, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Stop here if a signal came during a validation within a training."""
        averaging = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if self._handlers and not averaging:  # else the model holds the averages meanwhile
            self._stop_if_asked(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; give a second one to the handler before."""
        now = time.monotonic()
        if not self._received:
            self._received, self._received_at = number, now
        elif now - self._received_at > _SAME_SIGNAL_S:
            signal.signal(number, self._handlers.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _stop_if_asked(self, runner: Runner, meta: dict[str, int]) -> None:
        number = self._agree()
        if number:
            folders = (hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook))
            folder = next(folders, runner.work_dir)
            # no process leaves before the file is written, or the launcher would end them all
            runner.save_checkpoint(folder, INTERRUPTED, meta=meta, by_epoch=False)
            self.release()
            runner.logger.warning(
                f"interrupted by {signal.Signals(number).name}: "
                f"{os.path.join(folder, INTERRUPTED)} is written; go on with --resume"
            )
            raise InterruptedTraining(128 + number)

    def _agree(self) -> int:
        """The signal that any process had received one step ago; its own where it is alone."""
        if not dist.is_initialized():
            return self._received
        agreed = int(self._travelling.item()) if self._travelling is not None else 0
        self._travelling = torch.tensor(self._received, device=get_device())
        dist.all_reduce(self._travelling, op=dist.ReduceOp.MAX)
        return agreed
