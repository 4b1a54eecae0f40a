"""Hooks that count and compare while a model trains."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import all_gather, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from vmt_mm.analysis.counts import count_parameters
from vmt_mm.analysis.gradient_conflict import (
    RECORD_FILE,
    add_cosines,
    conflict_table,
    draw_conflicts,
    find_candidates,
    measure_conflict,
    new_record,
    task_losses,
    write_record,
)
from vmt_mm.analysis.tables import render_table, table_of
from vmt_mm.errors import InputError
from vmt_mm.registry import HOOKS
from vmt_mm.utils.files import write_image
from vmt_mm.utils.modules import restored_generators, unwrap

#: Entry of the message hub, and so of checkpoints, that holds the record.
_KEY = "gradient_conflict"


@HOOKS.register_module()
class ParameterTableHook(Hook):
    """Logs a table of trainable and all parameters before training."""

    def before_train(self, runner: Runner) -> None:
        """Log the table."""
        runner.logger.info(f"parameters\n{parameter_table(unwrap(runner.model))}")


def parameter_table(model: nn.Module) -> str:
    """Table of a multi-task model's parameters: encoder, output norms, each head, sum."""
    rows = []
    for part, (trainable, total) in count_parameters(model).items():
        share = f"{100 * trainable / total:.2f} %" if total else "-"
        rows.append(dict(part=part, trainable=f"{trainable:,}", all=f"{total:,}", share=share))
    return render_table(table_of(None, rows))


@HOOKS.register_module()
class GradientConflictHook(Hook):
    r"""Measures the cosine between the gradients of every two tasks (Eq. 8 of VMT-Adapter).

    Each process measures on the batch that the iteration trains on, in a forward and T backward
    passes of its own, which leave the training bit for bit as it is. The work dir gets
    ``gradient_conflict.json`` after every epoch and ``gradient_conflict.png`` at the end.

    Args:
        interval: measure every so many iterations.
        parameters: regular expression that chooses shared parameters of the encoder by their names,
            such as ``(down|up)\.weight``; None takes all.
    """

    def __init__(self, interval: int = 1, parameters: str | None = None) -> None:
        if type(interval) is not int or interval < 1:
            raise InputError(f"`interval` must be a positive whole number, got {interval!r}")
        self.interval, self.parameters = interval, parameters
        self.record = new_record(())

    def before_train(self, runner: Runner) -> None:
        """Continue the record of a resumed run; refuse a model that shares nothing."""
        model, hub = unwrap(runner.model), runner.message_hub
        find_candidates(model, self.parameters)
        self.record = new_record(model.tasks)
        earlier = hub.get_info(_KEY, None) if runner.iter else None
        if earlier and earlier["tasks"] == self.record["tasks"]:
            self.record = earlier
        hub.update_info(_KEY, self.record)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure on the batch that is trained on next."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        model = unwrap(runner.model)
        device = next(model.parameters()).device
        buffers = {buffer: buffer.clone() for buffer in model.buffers()}
        with restored_generators([] if device.type == "cpu" else [device]):
            with runner.optim_wrapper.optim_context(model):  # mixed precision, if the training's is
                data = model.data_preprocessor(data_batch, True)
                losses = task_losses(model, data["inputs"], data["data_samples"])
            candidates = find_candidates(model, self.parameters)
            cosines, self.record["shared_parameters"] = measure_conflict(losses, candidates)
        for buffer, value in buffers.items():  # statistics of normalisation
            buffer.copy_(value)
        add_cosines(self.record, runner.iter + 1, [row.tolist() for row in all_gather(cosines)])

    def after_train_epoch(self, runner: Runner) -> None:
        """Write what was measured so far."""
        if is_main_process():
            write_record(Path(runner.work_dir) / RECORD_FILE, self.record)

    def after_train(self, runner: Runner) -> None:
        """Log the table and draw the picture."""
        if is_main_process() and self.record["iterations"]:
            self.after_train_epoch(runner)
            records = {Path(runner.work_dir).name: self.record}
            runner.logger.info(f"gradient conflict\n{render_table(conflict_table(records))}")
            picture = (Path(runner.work_dir) / RECORD_FILE).with_suffix(".png")
            write_image(picture, draw_conflicts(records))
