"""A config's test pipeline, for images without labels that come from files or arrays."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.logging import print_log

from vmt_mm.config.tree import dicts_in
from vmt_mm.datasets.transforms import LoadImageFromFile, LoadLabels
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS
from vmt_mm.utils.image_files import orientation_of

#: A file, or an array of its pixels: (H, W, 3) BGR uint8, or what LoadImageFromFile makes that of.
Image = str | Path | np.ndarray


class InferencePipeline:
    """The test pipeline of a config without its labels.

    Args:
        cfg: its ``test_dataloader``, or ``test_pipeline`` where there is none, says the steps.
        turn_by_exif: whether files are turned as their EXIF orientation says; None leaves it to the
            pipeline's ``LoadImageFromFile``.

    Raises:
        InputError: if there is no test pipeline, or none that loads an image.
    """

    def __init__(self, cfg: Config, turn_by_exif: bool | None = None) -> None:
        steps = [TRANSFORMS.build(dict(step)) for step in _test_pipeline(cfg)]
        steps = [step for step in steps if not isinstance(step, LoadLabels)]
        readers = [i for i, step in enumerate(steps) if isinstance(step, LoadImageFromFile)]
        if not readers:
            raise InputError(
                f"{cfg.filename or 'the config'}: the test pipeline holds no LoadImageFromFile, so "
                "it cannot take an image"
            )
        self.reader: LoadImageFromFile = steps[readers[0]]
        if turn_by_exif is not None:
            self.reader.turn_by_exif = turn_by_exif
        self._rest = Compose(steps[readers[0] + 1 :])
        self._said_turned = False

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image file to (H, W, 3) BGR, or as the pipeline says.

        Raises:
            CorruptFileError: if it cannot be.
        """
        path = os.path.expanduser(path)
        content = self.reader.fetch(path)
        is_told = self._said_turned or self.reader.turn_by_exif
        if not is_told and orientation_of(content) != 1:
            self._said_turned = True
            print_log(
                f"{path}: viewers turn this image by its EXIF orientation; it is predicted as its "
                "pixels are stored, as in training; turn_by_exif=True turns it",
                "current",
                logging.WARNING,
            )
        return self.reader.decode(content, path)

    def take(self, pixels: object, name: str) -> np.ndarray:
        """Make an image of an array of stored pixels, by the rule for files.

        Raises:
            CorruptFileError: if the rule does not say what becomes of them.
        """
        if not isinstance(pixels, np.ndarray):
            raise InputError(
                f"{name}: expected a path or an array (H, W, 3) BGR uint8, got "
                f"{type(pixels).__name__}"
            )
        return self.reader.take(pixels, name)

    def __call__(
        self, image: Image, sample_id: str | None = None, path: str | None = None
    ) -> dict[str, Any]:
        """Make the model's inputs of one image, or of its file.

        Args:
            image: the file, or an array of its pixels.
            sample_id: see :meth:`prepare`.
            path: see :meth:`prepare`.

        Returns:
            ``inputs`` (C, h, w) and ``data_samples``, as the pipeline packs them.
        """
        if isinstance(image, (str, Path)):
            return self.prepare(self.read(image), sample_id, str(image))
        return self.prepare(self.take(image, path or sample_id or "the array"), sample_id, path)

    def prepare(
        self, image: np.ndarray, sample_id: str | None = None, path: str | None = None
    ) -> dict[str, Any]:
        """Make the model's inputs of an image that :meth:`read` or :meth:`take` gave.

        Args:
            image: (H, W[, C]).
            sample_id: what the sample is called; by default its file's name without suffix.
            path: where it comes from.
        """
        if self.reader.to_float32:
            image = image.astype(np.float32)
        size = image.shape[:2]
        known = dict(sample_id=sample_id or (Path(path).stem if path else None), img_path=path)
        return self._rest(
            dict(
                img=image,
                img_shape=size,
                ori_shape=size,
                label_paths={},
                **{key: value for key, value in known.items() if value is not None},
            )
        )


def _test_pipeline(cfg: Config) -> list[Mapping[str, Any]]:
    """The steps; of several data sets the first one's."""
    for entry in dicts_in((cfg.get("test_dataloader") or {}).get("dataset") or {}):
        if entry.get("pipeline"):
            return list(entry["pipeline"])
    if cfg.get("test_pipeline"):
        return list(cfg["test_pipeline"])
    raise InputError(
        f"{cfg.filename or 'the config'}: there is no test pipeline: set "
        "test_dataloader.dataset.pipeline"
    )
