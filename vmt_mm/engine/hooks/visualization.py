"""Show predictions beside labels during validation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from vmt_mm.config.files import files_read
from vmt_mm.datasets.transforms.image_values import displayable
from vmt_mm.datasets.transforms.loading import reader_of
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.files import check_outputs, write_image
from vmt_mm.utils.modules import unwrap
from vmt_mm.visualization import draw_panel


@HOOKS.register_module()
class MultiTaskVisualizationHook(Hook):
    """Draws a panel: image, and prediction and label of every task, with legends.

    In validation the first images of the set go to the runner's visualizer (files below
    ``vis_data``, TensorBoard, ...). In a test, panels go to ``show_dir`` where it is given.

    Args:
        num_images: panels of each validation; 0 draws none.
        interval: validate-with-panels every so many epochs.
        show_dir: folder for the panels of a test.
    """

    def __init__(self, num_images: int = 2, interval: int = 1, show_dir: str | None = None) -> None:
        self.num_images = num_images
        self.interval = max(1, interval)
        self.show_dir = Path(show_dir) if show_dir else None
        self._shown = 0

    def before_run(self, runner: Runner) -> None:
        """Raise InputError if panels would be written where data is read."""
        check_outputs(dict(show_dir=self.show_dir), files_read(runner.cfg))

    def before_val_epoch(self, runner: Runner) -> None:
        """Start to count the panels anew."""
        self._shown = 0

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[MultiTaskDataSample] | None = None,
    ) -> None:
        """Add the panels of the first images to the visualizer."""
        if runner.rank != 0 or runner.epoch % self.interval:
            return
        whole = [sample for sample in outputs or () if not sample.is_stand_in]
        for sample in whole[: self.num_images - self._shown]:
            self._shown += 1
            name = f"val_{sample.sample_id}".replace("/", "_")
            panel = self._panel(runner, sample, runner.val_dataloader)
            runner.visualizer.add_image(name, panel, runner.epoch)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[MultiTaskDataSample] | None = None,
    ) -> None:
        """Write the panels of all images to ``show_dir``."""
        for sample in (outputs or ()) if self.show_dir else ():
            if not sample.is_stand_in:
                panel = self._panel(runner, sample, runner.test_dataloader)
                write_image(self.show_dir / f"{sample.sample_id}.png", panel)

    def _panel(self, runner: Runner, sample: MultiTaskDataSample, loader: DataLoader) -> np.ndarray:
        model = unwrap(runner.model)
        image = displayable(reader_of(loader.dataset).read(sample.img_path))[..., ::-1]
        return draw_panel(image, sample, model.tasks, runner.visualizer.dataset_meta or {})
