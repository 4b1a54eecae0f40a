"""When a training ends early: at a loss that is not a number, or when a signal asks for it."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from vmt_mm.checkpoints.files import INTERRUPTED
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.modules import unwrap

#: Buffers that a forward pass changes.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Launchers repeat what the terminal has sent to everyone: within so many seconds it is one signal.
_SAME_SIGNAL_S = 2.0


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends the training, or skips the step, when a loss is infinite or not a number.

    All processes decide alike. A skipped step (``on_error='skip'``, at most ``max_skips`` in a run)
    leaves parameters, the optimizer's state and running statistics as they were.
    """

    def __init__(self, on_error: str = "raise", max_skips: int = 10) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"FiniteLossHook: on_error must be 'raise' or 'skip', {on_error!r}")
        self.on_error, self.max_skips, self.skipped = on_error, max_skips, 0
        self._losses, self._statistics = dict[str, Tensor](), dict[str, Tensor]()
        self._images: list[str] = []
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        """Listen to the model's losses and to the optimizer's steps."""
        self._runner = runner
        self._handles = [
            unwrap(runner.model).register_forward_hook(self._note_losses),
            runner.optim_wrapper.optimizer.register_step_pre_hook(self._check),
        ]

    def release(self) -> None:
        """Let go of the model, which may outlive the training, however that ends."""
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self, runner: Runner, *_: Any, data_batch: Any = None, **__: Any) -> None:
        """Note the images' names, and the statistics that a skipped step gets back."""
        samples = (data_batch or {}).get("data_samples", ())
        self._images = [str(s.get("img_path") or s.get("sample_id")) for s in samples]
        if self.on_error == "skip":
            buffers = unwrap(runner.model).named_buffers()
            self._statistics = {k: b.clone() for k, b in buffers if k.endswith(_STATISTICS)}

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Check the losses of an iteration without a step of the optimizer."""
        self._check(runner.optim_wrapper.optimizer)

    def _note_losses(self, model: nn.Module, inputs: tuple, output: object) -> None:
        if model.training and isinstance(output, dict):
            found = {k: v.detach().float().mean() for k, v in output.items() if "loss" in k}
            self._losses.update(found)

    def _check(self, optimizer: Optimizer, *_: Any) -> None:
        losses, self._losses = self._losses, {}
        if not losses:
            return
        wrong = (~torch.isfinite(torch.stack([*losses.values()]))).any().int()
        all_reduce(wrong, "max")
        if not wrong.item():
            return
        bad = [f"{key} = {value}" for key, value in losses.items() if not value.isfinite()]
        own = f"{', '.join(bad)} on images {', '.join(self._images)}" if bad else ""
        runner, lines = self._runner, "; ".join(filter(None, all_gather_object(own)))
        message = f"epoch {runner.epoch + 1}, iteration {runner.iter + 1}: {lines}"
        if self.on_error == "raise":
            raise InputError(f"{message}; the training stops before this step changes a weight")
        if self.skipped == self.max_skips:
            raise InputError(f"{message}; {self.skipped} steps were skipped before")
        self.skipped += 1
        runner.logger.warning(f"{message}; step skipped, {self.skipped} of {self.max_skips}")
        optimizer.zero_grad(set_to_none=True)  # without a gradient no parameter changes
        unwrap(runner.model).load_state_dict(self._statistics, strict=False)


class InterruptedTraining(SystemExit):
    """A training ended by a signal, with a checkpoint; exits with 128 + the signal's number."""


@HOOKS.register_module()
class GracefulStopHook(Hook):
    """SIGTERM and SIGINT end the training at the next step, with a checkpoint to resume from.

    A resumed training repeats an interrupted validation. Several processes agree while the next
    step computes, and stop one step later. A second signal ends at once.
    """

    priority = "LOWEST"  # everything else has seen the step that is saved

    def __init__(self) -> None:
        self._received, self._received_at = 0, 0.0
        self._handlers: dict[int, Any] = {}  # those before the training
        self._travelling: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Take the signals, where that is possible: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def release(self) -> None:
        """Give the signals back; the runner calls it however the training ends."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Stop here if a signal came."""
        self._stop_if_asked(runner, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Stop here if a signal came during a validation within a training."""
        averaging = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if self._handlers and not averaging:  # else the model holds the averages meanwhile
            self._stop_if_asked(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _note(self, number: int, frame: object) -> None:
        """Remember a signal; give a second one to the handler before."""
        now = time.monotonic()
        if not self._received:
            self._received, self._received_at = number, now
        elif now - self._received_at > _SAME_SIGNAL_S:
            signal.signal(number, self._handlers.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _stop_if_asked(self, runner: Runner, meta: dict[str, int]) -> None:
        number = self._received
        if dist.is_initialized():  # then what any process had received one step ago
            number = int(self._travelling.item()) if self._travelling is not None else 0
            self._travelling = torch.tensor(self._received, device=get_device())
            dist.all_reduce(self._travelling, op=dist.ReduceOp.MAX)
        if not number:
            return
        folders = (hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook))
        folder = next(folders, runner.work_dir)
        # no process leaves before the file is written, or the launcher would end them all
        runner.save_checkpoint(folder, INTERRUPTED, meta=meta, by_epoch=False)
        self.release()
        name, path = signal.Signals(number).name, os.path.join(folder, INTERRUPTED)
        runner.logger.warning(f"interrupted by {name}: {path} is written; go on with --resume")
        raise InterruptedTraining(128 + number)
