"""Say what is wrong with labels: before the first step, and what an epoch's data did not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from vmt_mm.datasets.verification import look_at_labels
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main


@HOOKS.register_module()
class LabelReportHook(Hook):
    """Warns of suspicious labels, of tasks without any, and of skipped files.

    Before a training or a test a few labels of every task are looked at. At the end of an epoch,
    tasks without one valid pixel in it are named. Files that were skipped are listed once a run.
    """

    def __init__(self) -> None:
        self._labelled: set[str] = set()
        self._iterations = 0
        self._listed: set[str] = set()
        self._skipped: dict[str, str] = {}  # file -> what is wrong with it

    def before_train(self, runner: Runner) -> None:
        """Look at the labels of the training and of its validation."""
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            self._look(runner, loop.dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Look at the labels."""
        self._look(runner, runner.test_loop.dataloader.dataset)

    def _look(self, runner: Runner, dataset: Dataset) -> None:
        for warning in on_main(lambda: look_at_labels(dataset)):
            runner.logger.warning(warning)

    def before_train_epoch(self, runner: Runner) -> None:
        """Forget the epoch before."""
        self._labelled, self._iterations = set(), 0

    def after_train_iter(self, runner: Runner, *_: Any, data_batch: Any = None, **__: Any) -> None:
        """Note which tasks have a label in a batch, and its skipped files."""
        self._iterations += 1
        samples = (data_batch or {}).get("data_samples", ())
        self._note_skipped(samples)
        for name, task in _trained_tasks(runner).items():
            for sample in samples:
                label = None if name in self._labelled else sample.label(name)
                if label is not None and task.label.valid(label[None]).any():
                    self._labelled.add(name)

    def after_train_epoch(self, runner: Runner) -> None:
        """Report on the epoch, or on the whole training of an iteration-based loop."""
        self._list_skipped(runner)
        labelled = set().union(*all_gather_object(self._labelled))
        without = [name for name in _trained_tasks(runner) if name not in labelled]
        if without and self._iterations:
            runner.logger.warning(
                f"epoch {runner.epoch + 1}: in {self._iterations} iterations no image had a label "
                f"for task(s) {', '.join(without)}; they learned nothing"
            )

    def after_val_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Note the batch's skipped files."""
        self._note_skipped(outputs or ())

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """List the skipped files."""
        self._list_skipped(runner)

    after_test_epoch = after_val_epoch

    def _note_skipped(self, samples: Sequence[MultiTaskDataSample]) -> None:
        for sample in samples:
            self._skipped.update(sample.get("skipped") or {})

    def _list_skipped(self, runner: Runner) -> None:
        """List the files that any process skipped since the last list."""
        found = {
            path: why for part in all_gather_object(self._skipped) for path, why in part.items()
        }
        lines = [f"  {why}" for path, why in sorted(found.items()) if path not in self._listed]
        self._skipped.clear()
        self._listed.update(found)
        if lines:
            listed = "\n".join(lines)
            runner.logger.warning(f"{len(lines)} corrupt file(s) were skipped:\n{listed}")


def _trained_tasks(runner: Runner) -> dict[str, Any]:
    return getattr(unwrap(runner.model), "trained_tasks", {})
