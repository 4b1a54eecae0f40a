"""Predict any number of files, folders, videos and arrays."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from torch import nn

from vmt_mm.apis.inference import init_model, predict_batch
from vmt_mm.apis.inputs import check_ids, list_sources, read_images
from vmt_mm.apis.pipeline import InferencePipeline
from vmt_mm.config.tree import files_read
from vmt_mm.datasets.transforms.load import displayable
from vmt_mm.errors import InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.structures.predictions import check_predictions, write_predictions
from vmt_mm.utils.console import print_problems
from vmt_mm.utils.files import check_folder_target, write_image
from vmt_mm.visualization import draw_panel


class MultiTaskInferencer:
    """Predicts all tasks, or some, for any number of images; threads may share it.

    >>> inferencer = MultiTaskInferencer("vmt.safetensors")
    >>> inferencer("photos/", return_datasamples=False, out_dir="predictions/", panels=True)

    ``skipped`` maps the unreadable inputs of the last call to the reason.

    Args:
        model: a model of :func:`init_model`, or its argument: config or adapter file.
        weights: checkpoint of the config.
        device: where to run; None takes the best available device.
        cfg_options: merged into the config.
        show_progress: show a progress bar.
        turn_by_exif: rotate files by their EXIF orientation; None leaves it to the config.
    """

    def __init__(
        self,
        model: Any,
        weights: str | Path | None = None,
        device: Any = None,
        cfg_options: dict[str, Any] | None = None,
        show_progress: bool = True,
        turn_by_exif: bool | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            self.model: Any = init_model(model, weights, device, cfg_options)
        else:
            self.model = model if device is None else model.to(device)
        self._files = [path for path in (model, weights) if isinstance(path, (str, Path))]
        self.cfg = self.model.cfg
        self.pipeline = InferencePipeline(self.cfg, turn_by_exif)
        self.show_progress = show_progress
        self.skipped: dict[str, str] = {}
        self._lock = threading.Lock()

    def __call__(self, inputs: Any, return_datasamples: bool = True, **kwargs: Any) -> Any:
        """Predict all inputs, with the arguments of :meth:`stream`; return a list of samples.

        ``return_datasamples=False`` returns ``dict(images=count, skipped={name: reason})`` instead.
        """
        stream = self.stream(inputs, **kwargs)
        if return_datasamples:
            return list(stream)
        return dict(images=sum(1 for _ in stream), skipped=dict(self.skipped))

    def stream(
        self,
        inputs: Any,
        batch_size: int = 1,
        tasks: str | Sequence[str] | None = None,
        out_dir: str | Path | None = None,
        panels: bool = False,
        opacity: float = 1.0,
        on_error: str = "raise",
    ) -> Iterator[MultiTaskDataSample]:
        """Yield predictions, each at the image's original size; keeps one batch in memory.

        Args:
            inputs: path of an image, a video or a folder, glob, array, or a list of these.
            batch_size: number of images to run together, if their sizes allow it.
            tasks: names of the tasks whose heads run; None runs all.
            out_dir: write predictions to ``<out_dir>/<task>/<id>.png``, in the label format.
            panels: also write ``<out_dir>/panels/<id>.png``, the image next to all predictions.
            opacity: opacity of predictions in panels, in [0, 1].
            on_error: for unreadable files: 'raise', or 'skip' and list them at the end.
        """
        if type(batch_size) is not int or batch_size < 1:
            raise InputError(f"`batch_size` must be a positive integer, got {batch_size!r}")
        if on_error not in ("raise", "skip"):
            raise InputError(f"`on_error` must be 'raise' or 'skip', got {on_error!r}")
        check_opacity(opacity)
        if panels and out_dir is None:
            raise InputError("`panels=True` needs `out_dir`, the folder to write to")
        tasks = [tasks] if isinstance(tasks, str) else tasks
        names = self.model.backbone.select_tasks(self.model.test_tasks if tasks is None else tasks)
        sources = list_sources(inputs, self.pipeline.take)
        folder = None if out_dir is None else Path(out_dir).expanduser()
        if folder is not None:
            check_folder_target(folder)
            check_ids(sources)
            given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            read = [*given, *(source.path for source in sources), *self.files_read()]
            check_predictions(folder, names, read)
        self.skipped = {}
        skipped = self.skipped if on_error == "skip" else None
        total = None if any(source.is_video for source in sources) else len(sources)
        images = read_images(sources, self.pipeline, skipped)
        return self._run(images, total, batch_size, names, folder, opacity if panels else None)

    def files_read(self) -> list[Any]:
        """Return the model's files and the folders of its config's datasets."""
        return [*self._files, *files_read(self.cfg)]

    def draw(
        self, image: np.ndarray | None, sample: MultiTaskDataSample, opacity: float = 1.0
    ) -> np.ndarray:
        """Draw predictions, and the image (H, W[, C]) of the pipeline unless None: RGB, uint8."""
        model, shown = self.model, None if image is None else displayable(image)[..., ::-1]
        tasks = {k: v for k, v in model.tasks.items() if sample.prediction(k) is not None}
        return draw_panel(shown, sample, tasks, model.dataset_meta, opacity)

    def forward(self, inputs: Sequence[Any], tasks: Any = None) -> list[MultiTaskDataSample]:
        """Predict preprocessed images, one thread at a time."""
        with self._lock:
            return predict_batch(self.model, inputs, tasks)

    def _run(
        self,
        images: Iterable[tuple[str, str | None, np.ndarray]],
        total: int | None,
        batch_size: int,
        tasks: Sequence[str],
        folder: Path | None,
        opacity: float | None,
    ) -> Iterator[MultiTaskDataSample]:
        """Predict, write and yield; ``opacity`` None writes no panels."""
        with Progress(disable=not self.show_progress) as progress:
            bar = progress.add_task("predicting", total=total)
            images, chosen = iter(images), {task: self.model.tasks[task] for task in tasks}
            while batch := list(islice(images, batch_size)):
                inputs = [self.pipeline.prepare(image, name, path) for name, path, image in batch]
                samples = self.forward(inputs, tasks)
                for (name, _, image), sample in zip(batch, samples, strict=True):
                    if folder is not None:
                        write_predictions(sample, chosen, folder)
                    if folder is not None and opacity is not None:
                        picture = self.draw(image, sample, opacity)
                        write_image(folder / "panels" / f"{name}.png", picture)
                    yield sample
                progress.advance(bar, len(batch))
        if self.skipped:
            print(f"{len(self.skipped)} input(s) could not be read and were skipped:")
            print_problems(list(self.skipped.values()))


def check_opacity(opacity: object) -> None:
    """Raise InputError unless ``opacity`` is a number in [0, 1]."""
    if isinstance(opacity, bool) or not isinstance(opacity, (int, float)) or not 0 <= opacity <= 1:
        raise InputError(f"`opacity` must be a number in [0, 1], got {opacity!r}")
