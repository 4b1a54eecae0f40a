"""The test pipeline of a config, for files and arrays without labels."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log

from vmt_mm.config.tree import dicts_in
from vmt_mm.datasets.transforms.load import LoadImageFromFile, LoadLabels
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS
from vmt_mm.utils.image_files import orientation_of

#: A file, or its pixels: (H, W, 3) BGR uint8, or other pixels that LoadImageFromFile converts.
Image = str | Path | np.ndarray


class InferencePipeline:
    """The pipeline of a config's first test dataset, or ``test_pipeline``, without label loading.

    ``turn_by_exif`` rotates files by their EXIF orientation; None leaves it to the config.
    """

    def __init__(self, cfg: Config, turn_by_exif: bool | None = None) -> None:
        datasets = dicts_in((cfg.get("test_dataloader") or {}).get("dataset"))
        listed = [entry["pipeline"] for entry in datasets if entry.get("pipeline")]
        steps = [TRANSFORMS.build(dict(s)) for s in [*listed, cfg.get("test_pipeline") or []][0]]
        readers = [i for i, step in enumerate(steps) if isinstance(step, LoadImageFromFile)]
        if not readers:
            place = "the first pipeline in test_dataloader" if listed else "`test_pipeline`"
            file = cfg.filename or "the config"
            raise InputError(f"{file}: {place} has no LoadImageFromFile; add it as the first step")
        self.reader: LoadImageFromFile = steps[readers[0]]
        if turn_by_exif is not None:
            self.reader.turn_by_exif = turn_by_exif
        rest = steps[readers[0] + 1 :]
        self._rest = Compose([step for step in rest if not isinstance(step, LoadLabels)])
        self._has_warned = False

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image file as (H, W, 3) BGR, or as the pipeline's loader is configured."""
        path = os.path.expanduser(path)
        content = self.reader.fetch(path)
        silent = self._has_warned or self.reader.turn_by_exif
        if not silent and orientation_of(content) != 1:
            self._has_warned = True
            text = f"{path}: viewers rotate this image by its EXIF orientation; the model sees it "
            text += "as stored, as in training; set turn_by_exif=True to rotate it"
            print_log(text, "current", logging.WARNING)
        return self.reader.decode(content, path)

    def take(self, pixels: object, name: str) -> np.ndarray:
        """Convert an array of pixels as :meth:`read` does a file; ``name`` is for errors."""
        if not isinstance(pixels, np.ndarray):
            kind = type(pixels).__name__
            raise InputError(f"{name}: expected a path or array (H, W, 3) BGR uint8, got {kind}")
        return self.reader.take(pixels, name)

    def __call__(self, image: Image) -> dict[str, Any]:
        """Preprocess an image or file: ``inputs`` (C, h, w) and ``data_samples``."""
        if isinstance(image, (str, Path)):
            return self.prepare(self.read(image), path=str(image))
        return self.prepare(self.take(image, "the array"))

    def prepare(
        self, image: np.ndarray, sample_id: str | None = None, path: str | None = None
    ) -> dict[str, Any]:
        """Preprocess an image (H, W[, C]) of :meth:`read` or :meth:`take`."""
        image = image.astype(np.float32) if self.reader.to_float32 else image
        size = image.shape[:2]
        known = dict(sample_id=sample_id or (Path(path).stem if path else None), img_path=path)
        results = {key: value for key, value in known.items() if value is not None}
        results.update(img=image, img_shape=size, ori_shape=size, label_paths={})
        return self._rest(results)
