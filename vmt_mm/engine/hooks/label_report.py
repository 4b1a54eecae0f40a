"""Say what is wrong with labels: before the first step, and what the data did not have."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from vmt_mm.datasets.label_look import look_at_labels
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main


@HOOKS.register_module()
class LabelReportHook(Hook):
    """Warns of labels that hardly are what they should be, of tasks without any, of skipped files.

    Before a training or a test a few labels of every task are looked at, those of a training's
    validation, too. At the end of an epoch
    tasks that never had a label are named.
    A label without one valid pixel is none. Files are skipped where the dataset's ``on_error`` is
    'skip'; each is listed once a run.
    """

    def __init__(self) -> None:
        self._labelled: set[str] = set()
        self._iterations = 0
        self._listed: set[str] = set()
        self._skipped: dict[str, str] = {}

    def before_train(self, runner: Runner) -> None:
        """Look at the labels."""
        self._look(runner, runner.train_loop.dataloader.dataset)
        if runner.val_loop is not None:  # else its labels' faults end the run after an epoch
            self._look(runner, runner.val_loop.dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Look at the labels."""
        self._look(runner, runner.test_loop.dataloader.dataset)

    def _look(self, runner: Runner, dataset: Dataset) -> None:
        for what in on_main(lambda: look_at_labels(dataset)):
            runner.logger.warning(what)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start anew."""
        self._labelled.clear()
        self._iterations = 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Note which tasks have a label in a batch."""
        self._iterations += 1
        tasks = getattr(unwrap(runner.model), "trained_tasks", {})
        for sample in (data_batch or {}).get("data_samples", ()):
            self._skipped.update(sample.get("skipped") or {})
            for name, task in tasks.items():
                label = None if name in self._labelled else sample.label(name)
                if label is not None and task.label.valid(label[None]).any():
                    self._labelled.add(name)

    def after_train_epoch(self, runner: Runner) -> None:
        """Report on the epoch, or on the whole training of an iteration-based loop."""
        self._list_skipped(runner)
        labelled = set().union(*all_gather_object(self._labelled))
        without = [
            name
            for name in getattr(unwrap(runner.model), "trained_tasks", {})
            if name not in labelled
        ]
        if without and self._iterations:
            runner.logger.warning(
                f"epoch {runner.epoch + 1}: in {self._iterations} iterations no image had a label "
                f"for task(s) {', '.join(without)}; they learned nothing"
            )

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[MultiTaskDataSample] | None = None,
    ) -> None:
        """Note the batch's skipped files."""
        for sample in outputs or ():
            self._skipped.update(sample.get("skipped") or {})

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """List them."""
        self._list_skipped(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """List them."""
        self._list_skipped(runner)

    def _list_skipped(self, runner: Runner) -> None:
        """List the files that were skipped since the last list, on any process."""
        found: dict[str, str] = {}
        for part in all_gather_object(self._skipped):
            found.update({path: why for path, why in part.items() if path not in self._listed})
        self._skipped.clear()
        self._listed.update(found)
        if found:
            lines = "\n".join(f"  {why}" for _, why in sorted(found.items()))
            runner.logger.warning(f"{len(found)} corrupt file(s) were skipped:\n{lines}")
