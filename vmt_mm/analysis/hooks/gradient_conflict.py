"""Watch the tasks' gradients during a training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from vmt_mm.analysis.gradient_conflict import (
    RECORD_FILE,
    Conflict,
    ConflictRecord,
    compile_pattern,
    conflict_table,
    find_candidates,
    measure_conflict,
    read_record,
    task_losses,
)
from vmt_mm.analysis.gradient_conflict_plot import draw_conflicts
from vmt_mm.analysis.tables import render_table
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.files import write_image
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main


@HOOKS.register_module()
class GradientConflictHook(Hook):
    r"""Measures the cosine between the gradients of every two tasks (Eq. 8 of VMT-Adapter).

    The gradients are those of the batch that the iteration trains on, at the same weights and with
    the same dropout: summed over the tasks they are the training's. They come of a forward and T
    backward passes of their own, which leave the training bit for bit as it is: losses, weights,
    gradients that accumulate, normalisation statistics and random numbers. Each process measures
    on its own batch. An iteration then takes about T + 1 more passes through the model.

    ``gradient_conflict.json`` in the work dir holds everything measured so far at the end of every
    epoch and of the training, and in every checkpoint's company, so that a resumed run goes on with
    it; ``gradient_conflict.png`` shows it at the end.

    Args:
        interval: measure every so many iterations.
        parameters: regular expression; only shared parameters of the encoder in whose names it is
            found count, such as ``(down|up)\.weight``. None takes all that are shared.

    Raises:
        InputError: if an argument is out of range, or, once a training starts, if no trainable
            parameter of the encoder is shared.
    """

    def __init__(self, interval: int = 1, parameters: str | None = None) -> None:
        if type(interval) is not int or interval < 1:
            raise InputError(
                "GradientConflictHook: `interval` must be a positive whole number, got "
                f"{interval!r}"
            )
        compile_pattern(parameters)
        self.interval = interval
        self.parameters = parameters
        self.record = ConflictRecord(())
        self._written = 0

    def before_train(self, runner: Runner) -> None:
        """Take up what a resumed run had measured; refuse a model that shares nothing."""
        model = unwrap(runner.model)
        self.record, self._written = ConflictRecord(tuple(getattr(model, "tasks", ()))), 0
        find_candidates(model, self.parameters)
        path = _path(runner)
        former = on_main(lambda: read_record(path) if runner.iter and path.is_file() else None)
        if former is not None and former.tasks == self.record.tasks:
            self.record = former.until(runner.iter)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure on the batch that is trained on next."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        with _undisturbed(unwrap(runner.model)):
            conflict = self._measure(runner, data_batch)
        rows = all_gather(conflict.cosines)
        self.record.shared = conflict.shared
        self.record.add(runner.iter + 1, [row.tolist() for row in rows])

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write what belongs to this checkpoint; the main process alone gets here."""
        self._write(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Write what was measured so far."""
        if is_main_process():
            self._write(runner)

    def after_train(self, runner: Runner) -> None:
        """Log the table and draw the picture."""
        if is_main_process() and self.record.iterations:
            records = {Path(runner.work_dir).name: self.record}
            runner.logger.info(f"gradient conflict\n{render_table(conflict_table(records))}")
            write_image(_path(runner).with_suffix(".png"), draw_conflicts(records))

    def _measure(self, runner: Runner, data_batch: Any) -> Conflict:
        model = unwrap(runner.model)
        with runner.optim_wrapper.optim_context(model):  # mixed precision, if the training's is
            data = model.data_preprocessor(data_batch, True)
            losses = task_losses(model, data["inputs"], data["data_samples"])
        return measure_conflict(losses, find_candidates(model, self.parameters))

    def _write(self, runner: Runner) -> None:
        if len(self.record.iterations) != self._written:
            self.record.write(_path(runner))
            self._written = len(self.record.iterations)


def _path(runner: Runner) -> Path:
    return Path(runner.work_dir) / RECORD_FILE


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Put random generators and buffers (normalisation statistics) back at the end."""
    device = next(model.parameters()).device
    devices = [] if device.type == "cpu" else [device]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            own = dict(model.named_buffers())
            for name, value in buffers.items():
                own[name].copy_(value)
