"""Reports on labels and predictions: warnings, panels, files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch.utils.data import DataLoader

from vmt_mm.config.tree import files_read
from vmt_mm.datasets.transforms.load import displayable, reader_of
from vmt_mm.datasets.verification import look_at_labels
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.structures.predictions import check_predictions, write_predictions
from vmt_mm.utils.files import check_outputs, write_image
from vmt_mm.utils.modules import unwrap
from vmt_mm.utils.processes import on_main
from vmt_mm.visualization import draw_panel


@HOOKS.register_module()
class LabelReportHook(Hook):
    """Warns of suspicious labels, tasks without labels in an epoch, and skipped files."""

    def __init__(self) -> None:
        self._iterations = 0
        self._labelled, self._listed = set[str](), set[str]()
        self._skipped: dict[str, str] = {}  # file -> what is wrong with it

    def before_train(self, runner: Runner) -> None:
        """Check a sample of the training and validation labels."""
        _look(runner, runner.train_loop, runner.val_loop)

    def before_test(self, runner: Runner) -> None:
        """Check a sample of the test labels."""
        _look(runner, runner.test_loop)

    def before_train_epoch(self, runner: Runner) -> None:
        """Reset the counts of the epoch."""
        self._labelled, self._iterations = set(), 0
        self._tasks = getattr(unwrap(runner.model), "trained_tasks", {})

    def after_train_iter(self, runner: Runner, *_: Any, data_batch: Any = None, **__: Any) -> None:
        """Record which tasks have a label in the batch, and its skipped files."""
        self._iterations += 1
        samples = (data_batch or {}).get("data_samples", ())
        self.after_val_iter(runner, outputs=samples)
        for name, task in self._tasks.items():
            for sample in samples:
                label = None if name in self._labelled else sample.label(name)
                if label is not None and task.label.valid(label[None]).any():
                    self._labelled.add(name)

    def after_train_epoch(self, runner: Runner) -> None:
        """Report on the epoch, or on an entire iteration-based training."""
        self.after_val_epoch(runner)
        labelled = set().union(*all_gather_object(self._labelled))
        without = [name for name in self._tasks if name not in labelled]
        if without and self._iterations:
            none = f"in {self._iterations} iterations no image had a label for task(s)"
            tasks = f"{', '.join(without)}, which were not trained"
            runner.logger.warning(f"epoch {runner.epoch + 1}: {none} {tasks}")

    def after_val_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Record the batch's skipped files."""
        for sample in outputs or ():
            self._skipped.update(sample.get("skipped") or {})

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Log the files that any process skipped since the last report."""
        found = dict(item for part in all_gather_object(self._skipped) for item in part.items())
        lines = [f"\n  {why}" for path, why in sorted(found.items()) if path not in self._listed]
        self._skipped.clear()
        self._listed.update(found)
        if lines:
            runner.logger.warning(f"{len(lines)} corrupt file(s) were skipped:{''.join(lines)}")

    after_test_iter, after_test_epoch = after_val_iter, after_val_epoch


def _look(runner: Runner, *loops: BaseLoop | None) -> None:
    for dataset in (loop.dataloader.dataset for loop in loops if loop is not None):
        for warning in on_main(lambda dataset=dataset: look_at_labels(dataset)):
            runner.logger.warning(warning)


@HOOKS.register_module()
class MultiTaskVisualizationHook(Hook):
    """Draws panels of image, predictions and labels, with legends.

    The first ``num_images`` of each validation go to the visualizer, test images to ``show_dir``;
    without ``draw_image``, only their predictions and labels.
    """

    def __init__(
        self, num_images: int = 2, show_dir: str | None = None, draw_image: bool = True
    ) -> None:
        self.num_images, self.draw_image, self._shown = num_images, draw_image, 0
        self.show_dir = Path(show_dir) if show_dir else None

    def before_run(self, runner: Runner) -> None:
        """Raise InputError if panels would overwrite input files."""
        check_outputs(dict(show_dir=self.show_dir), files_read(runner.cfg))

    def before_val_epoch(self, runner: Runner) -> None:
        """Reset the count of panels."""
        self._shown = 0

    def after_val_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Add the panels of the first images to the visualizer."""
        first = self.num_images - self._shown if runner.rank == 0 else 0
        for sample in _predicted(outputs)[:first]:
            self._shown += 1
            name = f"val_{sample.sample_id}".replace("/", "_")
            panel = self._draw(runner, sample, runner.val_dataloader)
            runner.visualizer.add_image(name, panel, runner.epoch)

    def after_test_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Write the panels of the batch to ``show_dir``."""
        for sample in _predicted(outputs) if self.show_dir else ():
            panel = self._draw(runner, sample, runner.test_dataloader)
            write_image(self.show_dir / f"{sample.sample_id}.png", panel)

    def _draw(self, runner: Runner, sample: MultiTaskDataSample, loader: DataLoader) -> np.ndarray:
        reader, meta = reader_of(loader.dataset), runner.visualizer.dataset_meta or {}
        image = displayable(reader.read(sample.img_path))[..., ::-1] if self.draw_image else None
        return draw_panel(image, sample, unwrap(runner.model).tasks, meta)


@HOOKS.register_module()
class PredictionWriterHook(Hook):
    """Writes test predictions as ``<out_dir>/<task>/<id>.png``, in the task's label format."""

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)

    def before_run(self, runner: Runner) -> None:
        """Raise InputError if predictions would overwrite input files."""
        check_predictions(self.out_dir, unwrap(runner.model).tasks, files_read(runner.cfg))

    def after_test_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Write the batch's predictions."""
        for sample in _predicted(outputs):
            write_predictions(sample, unwrap(runner.model).tasks, self.out_dir)


def _predicted(outputs: Sequence[MultiTaskDataSample] | None) -> list[MultiTaskDataSample]:
    """Return the samples of a batch, without placeholders of skipped files."""
    return [sample for sample in outputs or () if not sample.is_stand_in]
