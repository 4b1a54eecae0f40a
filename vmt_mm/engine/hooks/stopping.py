"""Stop training early: on a non-finite loss, or on a signal."""

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
#: Launchers repeat signals of the terminal: within so many seconds, two count as one.
_SAME_SIGNAL_S = 2.0


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Ends training, or skips the step, when a loss is NaN or infinite.

    All processes make the same decision. A skipped step (``on_error='skip'``, at most ``max_skips``
    per run) does not change parameters, states of optimizer and weighting, or running statistics.
    """

    def __init__(self, on_error: str = "raise", max_skips: int = 10) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"FiniteLossHook: on_error={on_error!r} must be 'raise' or 'skip'")
        self.on_error, self.max_skips, self.skipped = on_error, max_skips, 0
        self._losses, self._statistics = dict[str, Tensor](), dict[str, Tensor]()
        self._weighting: dict[str, Any] = {}
        self._images: list[str] = []
        self._handles: list[RemovableHandle] = []

    def before_train(self, runner: Runner) -> None:
        """Register hooks on the model's losses and the optimizer's steps."""
        self._runner = runner
        self._handles = [
            unwrap(runner.model).register_forward_hook(self._note_losses),
            runner.optim_wrapper.optimizer.register_step_pre_hook(self._check),
        ]

    def release(self) -> None:
        """Remove the hooks; the runner calls it however training ends."""
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self, runner: Runner, *_: Any, data_batch: Any = None, **__: Any) -> None:
        """Record the images' names, and the statistics to restore if the step is skipped."""
        samples = (data_batch or {}).get("data_samples", ())
        self._images = [str(s.get("img_path") or s.get("sample_id")) for s in samples]
        if self.on_error == "skip":
            model = unwrap(runner.model)
            buffers = model.named_buffers()
            self._statistics = {k: b.clone() for k, b in buffers if k.endswith(_STATISTICS)}
            if weighting := getattr(model, "weighting", None):
                self._weighting = dict(weighting.state)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Check the losses of an iteration without an optimizer step."""
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
            raise InputError(f"{message}; training stops before this step changes weights")
        if self.skipped == self.max_skips:
            raise InputError(f"{message}; max_skips={self.skipped} steps have already been skipped")
        self.skipped += 1
        runner.logger.warning(f"{message}; step skipped, {self.skipped} of {self.max_skips}")
        optimizer.zero_grad(set_to_none=True)  # without a gradient no parameter changes
        model = unwrap(runner.model)
        model.load_state_dict(self._statistics, strict=False)
        if weighting := getattr(model, "weighting", None):
            weighting.state = dict(self._weighting)


class InterruptedTraining(SystemExit):
    """A signal ended training, after a checkpoint; the exit code is 128 + the signal number."""


@HOOKS.register_module()
class GracefulStopHook(Hook):
    """On SIGTERM or SIGINT, writes a checkpoint after the current step and ends training.

    A second signal ends it at once. A resumed run repeats an interrupted validation. Several
    processes exchange the signal during the next step, and stop one step later.
    """

    priority = "LOWEST"  # all other hooks must have seen the saved step

    def __init__(self) -> None:
        self._received, self._received_at = 0, 0.0
        self._handlers: dict[int, Any] = {}  # the previous ones
        self._travelling: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers, which only works in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def release(self) -> None:
        """Restore the previous handlers; the runner calls it however training ends."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Stop if a signal was received."""
        self._stop_if_asked(runner, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_val_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Stop if a signal was received during validation within a training run."""
        averaging = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        if self._handlers and not averaging:  # else the model now has the averages
            self._stop_if_asked(runner, dict(epoch=runner.epoch, iter=runner.iter))

    def _note(self, number: int, frame: object) -> None:
        """Record the first signal; pass a second one to the previous handler."""
        now = time.monotonic()
        if not self._received:
            self._received, self._received_at = number, now
        elif now - self._received_at > _SAME_SIGNAL_S:
            signal.signal(number, self._handlers.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _stop_if_asked(self, runner: Runner, meta: dict[str, int]) -> None:
        number = self._received
        if dist.is_initialized():  # then the signal that any process had received one step ago
            number = int(self._travelling.item()) if self._travelling is not None else 0
            self._travelling = torch.tensor(self._received, device=get_device())
            dist.all_reduce(self._travelling, op=dist.ReduceOp.MAX)
        if not number:
            return
        folders = (hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook))
        folder = next(folders, runner.work_dir)
        # all processes wait for the file: if one exits, the launcher ends the others
        runner.save_checkpoint(folder, INTERRUPTED, meta=meta, by_epoch=False)
        self.release()
        name, path = signal.Signals(number).name, os.path.join(folder, INTERRUPTED)
        runner.logger.warning(f"interrupted by {name}: wrote {path}; continue with --resume")
        raise InterruptedTraining(128 + number)
