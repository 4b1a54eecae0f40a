"""Predictions of validations and tests as pictures and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from vmt_mm.config.files import files_read
from vmt_mm.datasets.transforms.load import displayable, reader_of
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.structures.predictions import check_predictions, write_predictions
from vmt_mm.utils.files import check_outputs, write_image
from vmt_mm.utils.modules import unwrap
from vmt_mm.visualization import draw_panel


@HOOKS.register_module()
class MultiTaskVisualizationHook(Hook):
    """Draws a panel: image, and prediction and label of every task, with legends.

    Args:
        num_images: panels of each validation, of its first images, for the runner's visualizer.
        interval: epochs from one validation with panels to the next.
        show_dir: folder for the panels of all images of a test.
    """

    def __init__(self, num_images: int = 2, interval: int = 1, show_dir: str | None = None) -> None:
        self.num_images, self.interval = num_images, max(1, interval)
        self.show_dir = Path(show_dir) if show_dir else None
        self._shown = 0

    def before_run(self, runner: Runner) -> None:
        """Raise InputError if panels would be written where data is read."""
        check_outputs(dict(show_dir=self.show_dir), files_read(runner.cfg))

    def before_val_epoch(self, runner: Runner) -> None:
        """Start to count the panels."""
        self._shown = 0

    def after_val_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Add the panels of the first images to the visualizer."""
        if runner.rank != 0 or runner.epoch % self.interval:
            return
        for sample in _predicted(outputs)[: self.num_images - self._shown]:
            self._shown += 1
            name = f"val_{sample.sample_id}".replace("/", "_")
            panel = _panel(runner, sample, runner.val_dataloader)
            runner.visualizer.add_image(name, panel, runner.epoch)

    def after_test_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Write the panels of the batch to ``show_dir``."""
        if self.show_dir:
            for sample in _predicted(outputs):
                panel = _panel(runner, sample, runner.test_dataloader)
                write_image(self.show_dir / f"{sample.sample_id}.png", panel)


@HOOKS.register_module()
class PredictionWriterHook(Hook):
    """Writes a test's predictions as ``<out_dir>/<task>/<id>.png``, in the task's label format."""

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)

    def before_run(self, runner: Runner) -> None:
        """Raise InputError if predictions would be written where data is read."""
        check_predictions(self.out_dir, unwrap(runner.model).tasks, files_read(runner.cfg))

    def after_test_iter(self, runner: Runner, *_: Any, outputs: Any = None, **__: Any) -> None:
        """Write the batch's predictions."""
        for sample in _predicted(outputs):
            write_predictions(sample, unwrap(runner.model).tasks, self.out_dir)


def _predicted(outputs: Sequence[MultiTaskDataSample] | None) -> list[MultiTaskDataSample]:
    """The samples of a batch that come from a file of their own."""
    return [sample for sample in outputs or () if not sample.is_stand_in]


def _panel(runner: Runner, sample: MultiTaskDataSample, loader: DataLoader) -> np.ndarray:
    image = displayable(reader_of(loader.dataset).read(sample.img_path))[..., ::-1]
    return draw_panel(
        image, sample, unwrap(runner.model).tasks, runner.visualizer.dataset_meta or {}
    )
