"""Write the predictions of a test in the one layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from vmt_mm.config.files import files_read
from vmt_mm.registry import HOOKS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.structures.predictions import check_predictions, write_predictions
from vmt_mm.utils.modules import unwrap


@HOOKS.register_module()
class PredictionWriterHook(Hook):
    """Writes every prediction as ``<out_dir>/<task>/<id>.png``, in the task's label format.

    Args:
        out_dir: the folder.
    """

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)

    def before_run(self, runner: Runner) -> None:
        """Raise InputError if predictions would be written where data is read."""
        check_predictions(self.out_dir, unwrap(runner.model).tasks, files_read(runner.cfg))

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[MultiTaskDataSample] | None = None,
    ) -> None:
        """Write the batch's predictions."""
        model = unwrap(runner.model)
        for sample in outputs or ():
            if not sample.is_stand_in:
                write_predictions(sample, model.tasks, self.out_dir)
