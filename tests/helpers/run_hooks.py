"""Hooks that observe a training or interfere with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

#: Validation metric that selects the best checkpoint.
BEST = "semseg/mIoU"


class Killed(BaseException):
    """Simulates the end of the process: nothing in a training may catch it."""


def kill(*_: object) -> None:
    """End the training as SIGKILL would."""
    raise Killed


class At(Hook):
    """Calls ``action(runner)`` at one point of a training.

    Args:
        point: name of a hook's method.
        done: number of finished iterations, including the current one; None for every iteration.
        action: what to do.
        priority: see ``mmengine.hooks.Hook``.
    """

    def __init__(
        self,
        point: str,
        done: int | None,
        action: Callable[[Runner], object],
        priority: str = "NORMAL",
    ) -> None:
        self.done, self.action, self.priority = done, action, priority
        self._within = int(point == "after_train_iter")  # the loop has not counted this one yet
        setattr(self, point, self._act)

    def _act(self, runner: Runner, **kwargs: Any) -> None:
        if self.done in (None, runner.iter + self._within):
            self.action(runner)


class Recorder(Hook):
    """Records what a training computes, by the number of finished iterations."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.losses: dict[int, dict[str, float]] = {}
        self.rates: dict[int, float] = {}
        self.epochs: dict[int, int] = {}
        self.images: dict[int, list[str]] = {}
        self.validations: list[tuple[int, dict[str, float]]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        number = runner.iter + 1
        assert number not in self.losses  # no iteration runs twice
        self.losses[number] = {key: value.item() for key, value in outputs.items()}
        self.rates[number] = runner.optim_wrapper.get_lr()["lr"][0]
        self.epochs[number] = runner.epoch
        self.images[number] = [sample.sample_id for sample in data_batch["data_samples"]]

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.validations.append((runner.iter, dict(metrics)))


class Scores(Hook):
    """Sets the metric that selects the best checkpoint, by the number of finished iterations."""

    priority = "HIGHEST"

    def __init__(self, scores: Mapping[int, float]) -> None:
        self.scores = scores

    def after_val_epoch(self, runner, metrics=None) -> None:
        metrics[BEST] = self.scores.get(runner.iter, metrics[BEST])
