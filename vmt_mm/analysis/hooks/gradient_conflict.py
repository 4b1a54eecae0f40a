"""Watch the tasks' gradients during a training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import all_gather, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from vmt_mm.analysis.gradient_conflict import (
    RECORD_FILE,
    ConflictRecord,
    conflict_table,
    draw_conflicts,
    find_candidates,
    measure_conflict,
    read_record,
    task_losses,
)
from vmt_mm.analysis.tables import render_table
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.files import write_image, write_json
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main


@HOOKS.register_module()
class GradientConflictHook(Hook):
    r"""Measures the cosine between the gradients of every two tasks (Eq. 8 of VMT-Adapter).

    Each process measures on the batch that the iteration trains on, with the same weights and
    dropout, in a forward and T backward passes of its own, which leave the training bit for bit as
    it is. ``gradient_conflict.json`` in the work dir is written with every checkpoint and epoch, so
    that a resumed run continues it; ``gradient_conflict.png`` is drawn at the end.

    Args:
        interval: measure every so many iterations.
        parameters: regular expression that chooses shared parameters of the encoder by their names,
            such as ``(down|up)\.weight``; None takes all.
    """

    def __init__(self, interval: int = 1, parameters: str | None = None) -> None:
        if type(interval) is not int or interval < 1:
            raise InputError(
                "GradientConflictHook: `interval` must be a positive whole number, got "
                f"{interval!r}"
            )
        self.interval, self.parameters = interval, parameters
        self.record = ConflictRecord([])

    def before_train(self, runner: Runner) -> None:
        """Continue the record of a resumed run; refuse a model that shares nothing."""
        model = unwrap(runner.model)
        find_candidates(model, self.parameters)
        self.record, path = ConflictRecord(list(model.tasks)), _path(runner)
        resumes = runner.iter and path.is_file()
        earlier = on_main(lambda: read_record(path, runner.iter) if resumes else None)
        if earlier is not None and earlier.tasks == self.record.tasks:
            self.record = earlier

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure on the batch that is trained on next."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        with _undisturbed(model):
            with runner.optim_wrapper.optim_context(model):  # mixed precision, if the training's is
                data = model.data_preprocessor(data_batch, True)
                losses = task_losses(model, data["inputs"], data["data_samples"])
            parameters = find_candidates(model, self.parameters)
            cosines, self.record.shared_parameters = measure_conflict(losses, parameters)
        self.record.add(runner.iter + 1, (row.tolist() for row in all_gather(cosines)))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Write what belongs to this checkpoint, on the main process."""
        write_json(_path(runner), self.record.to_json())

    def after_train_epoch(self, runner: Runner) -> None:
        """Write what was measured so far."""
        if is_main_process():
            write_json(_path(runner), self.record.to_json())

    def after_train(self, runner: Runner) -> None:
        """Log the table and draw the picture."""
        if is_main_process() and self.record.iterations:
            records = {Path(runner.work_dir).name: self.record}
            runner.logger.info(f"gradient conflict\n{render_table(conflict_table(records))}")
            write_image(_path(runner).with_suffix(".png"), draw_conflicts(records))


def _path(runner: Runner) -> Path:
    return Path(runner.work_dir) / RECORD_FILE


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore random generators and buffers (normalisation statistics) at the end."""
    device = next(model.parameters()).device
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([] if device.type == "cpu" else [device]):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
    own = dict(model.named_buffers())
    for name, value in buffers.items():
        own[name].copy_(value)
