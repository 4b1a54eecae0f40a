"""Where the time of a training step goes."""

from __future__ import annotations

import time
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vmt_mm.registry import HOOKS
from vmt_mm.utils.modules import unwrap

#: What lies between two marks of a step, in the order of the marks.
_PARTS = ("input_time", "forward_time", "backward_time", "optimizer_time")


@HOOKS.register_module()
class StepTimeHook(Hook):
    """Logs the times of a step's parts in seconds, mean of an interval.

    ``input_time`` (the batch is copied to the device, warped there where it is told to, and
    normalised), ``forward_time``, ``backward_time``, ``optimizer_time``: beside mmengine's ``time``
    of a step and ``data_time``, in which the step waits for its batch.
    The losses' gradients that are taken at once (:mod:`vmt_mm.models.eager_backward`) are part of
    the forward pass. On a GPU the marks are events in its queue, read when logged, so nothing
    waits for them.

    Args:
        interval: iterations of a mean.
    """

    priority = "LOW"  # before the logger's hook, which reads the values

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self._marks: list[Any] = []
        self._steps: list[list[Any]] = []
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Put marks around the data preprocessor, the forward pass and the optimizer's step."""
        optimizer, model = runner.optim_wrapper.optimizer, unwrap(runner.model)
        self._handles = [
            model.data_preprocessor.register_forward_pre_hook(
                lambda *_: self._begin(model.training)
            ),
            model.register_forward_pre_hook(lambda *_: self._mark()),
            model.register_forward_hook(lambda *_: self._mark()),
            optimizer.register_step_pre_hook(lambda *_: self._mark()),
            optimizer.register_step_post_hook(lambda *_: self._mark()),
        ]

    def after_train(self, runner: Runner) -> None:
        """Take the marks away."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._marks, self._steps = [], [], []

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Report the mean once an interval is over; steps without an update are left out."""
        if len(self._marks) == len(_PARTS) + 1:
            self._steps.append(self._marks)
        self._marks = []
        if len(self._steps) < self.interval:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        for index, part in enumerate(_PARTS):
            spans = [_seconds(marks[index], marks[index + 1]) for marks in self._steps]
            runner.message_hub.update_scalar(f"train/{part}", sum(spans) / len(spans))
        self._steps = []

    def _begin(self, training: bool) -> None:
        self._marks = []
        if training:
            self._mark()

    def _mark(self) -> None:
        self._marks.append(_now())


def _now() -> float | torch.cuda.Event:
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000
