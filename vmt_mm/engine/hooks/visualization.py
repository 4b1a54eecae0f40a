"""Show predictions beside labels during validation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.files import write_image
from vmt_mm.utils.wrappers import unwrap
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
            runner.visualizer.add_image(name, self._panel(runner, sample), runner.epoch)

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
                write_image(self.show_dir / f"{sample.sample_id}.png", self._panel(runner, sample))

    def _panel(self, runner: Runner, sample: MultiTaskDataSample) -> object:
        model = unwrap(runner.model)
        image = mmcv.imread(sample.img_path, channel_order="rgb")
        return draw_panel(image, sample, model.tasks, runner.visualizer.dataset_meta or {})
