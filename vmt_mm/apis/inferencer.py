"""Predict files, folders, videos and arrays, however many."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.infer import BaseInferencer
from rich.progress import Progress
from torch import nn

from vmt_mm.apis.inference import init_model, predict_batch
from vmt_mm.apis.inference_inputs import (
    Inputs,
    batched,
    check_sources,
    count_images,
    list_sources,
    read_images,
)
from vmt_mm.apis.inference_pipeline import InferencePipeline
from vmt_mm.config.files import files_read
from vmt_mm.datasets.transforms.load_image import displayable
from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.structures.predictions import check_predictions, write_predictions
from vmt_mm.utils.console import print_problems
from vmt_mm.utils.files import write_image
from vmt_mm.visualization import draw_panel


class MultiTaskInferencer(BaseInferencer):
    """Predicts every task, or some, of any number of images.

    Images are read one batch at a time, and each prediction has its image's own size. At most one
    thread runs the model at a time.

    Args:
        model: config file, config, adapter file, or a model of :func:`init_model`.
        weights: the config's checkpoint.
        device: where to run; None takes the best device there is.
        cfg_options: merged into the config.
        show_progress: show a bar.
        turn_by_exif: turn files as their EXIF orientation says, as viewers do; None leaves it to
            the config's ``LoadImageFromFile``, whose default is not to.

    Attributes:
        skipped: of the last call, name of each input that could not be read -> why.

    Examples:
        >>> inferencer = MultiTaskInferencer('config.py', 'checkpoint.pth')
        >>> [sample] = inferencer('room.jpg')
        >>> sample.prediction('semseg').shape
        torch.Size([1, 480, 640])
        >>> for sample in inferencer.stream('photos/', batch_size=8, tasks=['normals']): ...
        >>> inferencer('photos/', out_dir='out', return_datasamples=False)  # flat memory
    """

    preprocess_kwargs: set = set()
    forward_kwargs: set = {"tasks"}
    visualize_kwargs: set = {"opacity"}
    postprocess_kwargs: set = set()

    def __init__(
        self,
        model: str | Path | Mapping[str, Any] | nn.Module,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
        cfg_options: Mapping[str, Any] | None = None,
        show_progress: bool = True,
        turn_by_exif: bool | None = None,
    ) -> None:
        # mmengine's own constructor would load weights without a look at what does not fit
        if isinstance(model, nn.Module):
            self.model = model if device is None else model.to(device)
        else:
            self.model = init_model(model, weights, device, cfg_options)
        self.cfg = self.model.cfg
        self._given = [path for path in (model, weights) if isinstance(path, (str, Path))]
        self.scope = self.cfg.get("default_scope", "vmt_mm")
        self.pipeline = self._init_pipeline(self.cfg, turn_by_exif)
        self.show_progress = show_progress
        self.skipped: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        inputs: Inputs,
        return_datasamples: bool = True,
        batch_size: int = 1,
        tasks: Sequence[str] | None = None,
        out_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> list[MultiTaskDataSample] | dict[str, Any]:
        """Predict all inputs.

        Args:
            inputs: path of an image, a video or a folder, glob, array, or a list of these.
            return_datasamples: keep every prediction and return them; needs memory for all.
            batch_size: images that are run together, where their sizes allow it.
            tasks: see :meth:`stream`.
            out_dir: see :meth:`stream`.
            kwargs: see :meth:`stream`.

        Returns:
            The samples in the order of the inputs; else ``dict(images=N, skipped=...)``.

        Raises:
            InputError: see :meth:`stream`.
        """
        stream = self.stream(inputs, batch_size, tasks, out_dir, **kwargs)
        if return_datasamples:
            return list(stream)
        return dict(images=sum(1 for _ in stream), skipped=dict(self.skipped))

    def stream(
        self,
        inputs: Inputs,
        batch_size: int = 1,
        tasks: Sequence[str] | None = None,
        out_dir: str | Path | None = None,
        panels: bool = False,
        opacity: float = 1.0,
        on_error: str = "abort",
    ) -> Iterator[MultiTaskDataSample]:
        """Predict the inputs one batch at a time; what was yielded is not kept.

        Args:
            inputs: path of an image, a video or a folder, glob, array, or a list of these.
            batch_size: images that are run together, where their sizes allow it.
            tasks: the tasks to run; None runs all. The other heads are not run.
            out_dir: predictions go to ``<out_dir>/<task>/<id>.png`` in the format of the labels.
            panels: write ``<out_dir>/panels/<id>.png`` too: the image beside all predictions.
            opacity: of predictions in panels, 0..1; 1 hides the image below.
            on_error: 'abort' ends at the first file that cannot be read; 'skip' leaves those out,
                lists them at the end, and keeps them in ``skipped``.

        Yields:
            Samples with ``pred_<task>`` (C, H, W) at the image's own size.

        Raises:
            InputError: before the first image, if an option is wrong, an input does not exist, or
                two would be written to one file.
            CorruptFileError: if a file cannot be read.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"batch_size must be a positive whole number, got {batch_size!r}")
        if on_error not in ("abort", "skip"):
            raise InputError(f"on_error must be 'abort' or 'skip', got {on_error!r}")
        check_opacity(opacity)
        if panels and out_dir is None:
            raise InputError("panels need out_dir, the folder to write to")
        tasks = [tasks] if isinstance(tasks, str) else tasks
        tasks = self.model.test_tasks if tasks is None else list(tasks)
        names = self.model.backbone.select_tasks(tasks)
        if panels and "panels" in names:
            raise InputError("a task is named 'panels', where panels would be written")
        sources = list_sources(inputs, self.pipeline.take)
        if out_dir is not None:
            out_dir = Path(out_dir).expanduser()
            check_sources(sources, out_dir)
            given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            read = [*given, *(source.path for source in sources), *self.files_read()]
            check_predictions(out_dir, names, read)
        self.skipped = {}
        skipped = self.skipped if on_error == "skip" else None
        images = read_images(sources, self.pipeline.read, self.pipeline.take, skipped)
        total = count_images(sources)
        return self._run(images, total, batch_size, names, out_dir, opacity if panels else None)

    def files_read(self) -> list[str | Path]:
        """The model's files, and the folders of its config's data sets."""
        return [*self._given, *files_read(self.cfg)]

    def draw(
        self, image: np.ndarray, sample: MultiTaskDataSample, opacity: float = 1.0
    ) -> np.ndarray:
        """Draw a panel: the image beside the predictions that the sample has.

        Args:
            image: (H, W[, C]), as the pipeline reads it.
            sample: its predictions.
            opacity: of the predictions, 0..1.

        Returns:
            RGB image, uint8.
        """
        tasks = {k: v for k, v in self.model.tasks.items() if sample.prediction(k) is not None}
        return draw_panel(
            cv2.cvtColor(displayable(image), cv2.COLOR_BGR2RGB),
            sample,
            tasks,
            self.model.dataset_meta,
            opacity,
        )

    def forward(
        self, inputs: Sequence[Mapping[str, Any]], tasks: Sequence[str] | None = None
    ) -> list[MultiTaskDataSample]:
        """Predict what the pipeline made; one thread at a time."""
        with self._lock:
            return predict_batch(self.model, inputs, tasks)

    def visualize(
        self, inputs: Sequence[np.ndarray], preds: Sequence[MultiTaskDataSample], **kwargs: Any
    ) -> list[np.ndarray]:
        """Panels, RGB, of images (H, W, 3) BGR."""
        return [self.draw(*pair, **kwargs) for pair in zip(inputs, preds, strict=True)]

    def postprocess(self, preds: list[MultiTaskDataSample], *args: Any, **kwargs: Any) -> list:
        """Nothing: predictions are tensors at the image's size already."""
        return preds

    def _init_pipeline(self, cfg: Config, turn_by_exif: bool | None = None) -> InferencePipeline:
        return InferencePipeline(cfg, turn_by_exif)

    def _run(
        self,
        images: Iterable[tuple[str, str | None, np.ndarray]],
        total: int | None,
        batch_size: int,
        tasks: Sequence[str],
        out_dir: str | Path | None,
        opacity: float | None,
    ) -> Iterator[MultiTaskDataSample]:
        """Predict, write and yield; panels are written where ``opacity`` is given."""
        with Progress() if self.show_progress else nullcontext() as progress:
            bar = progress.add_task("predicting", total=total) if progress else None
            done = 0
            for batch in batched(images, batch_size):
                inputs = [self.pipeline.prepare(image, name, path) for name, path, image in batch]
                for (name, _, image), sample in zip(
                    batch, self.forward(inputs, tasks), strict=True
                ):
                    if out_dir is not None:
                        chosen = {task: self.model.tasks[task] for task in tasks}
                        write_predictions(sample, chosen, Path(out_dir))
                    if opacity is not None:
                        picture = self.draw(image, sample, opacity)
                        write_image(Path(out_dir) / "panels" / f"{name}.png", picture)
                    yield sample
                done += len(batch)
                if progress:
                    progress.update(bar, completed=done + len(self.skipped))
        if self.skipped:
            print(f"{len(self.skipped)} input(s) could not be read and were skipped:")
            print_problems(list(self.skipped.values()))


def check_opacity(opacity: object) -> None:
    """Raise InputError unless it is a number in 0..1."""
    if isinstance(opacity, bool) or not isinstance(opacity, (int, float)) or not 0 <= opacity <= 1:
        raise InputError(f"opacity must be a number in 0..1, got {opacity!r}")
