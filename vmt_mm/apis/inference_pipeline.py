"""A config's test pipeline, for images without labels that come from files or arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose

from vmt_mm.config.tree import dicts_in
from vmt_mm.datasets.transforms.loading import LoadImageFromFile, LoadLabels
from vmt_mm.errors import InputError
from vmt_mm.registry import TRANSFORMS

#: A file, or an array (H, W, 3) BGR uint8.
Image = str | Path | np.ndarray


class InferencePipeline:
    """The test pipeline of a config without its labels.

    Args:
        cfg: its ``test_dataloader``, or ``test_pipeline`` where there is none, says the steps.

    Raises:
        InputError: if there is no test pipeline, or none that loads an image.
    """

    def __init__(self, cfg: Config) -> None:
        steps = [TRANSFORMS.build(dict(step)) for step in _test_pipeline(cfg)]
        steps = [step for step in steps if not isinstance(step, LoadLabels)]
        readers = [i for i, step in enumerate(steps) if isinstance(step, LoadImageFromFile)]
        if not readers:
            raise InputError(
                f"{cfg.filename or 'the config'}: the test pipeline holds no LoadImageFromFile, so "
                "it cannot take an image"
            )
        self._reader: LoadImageFromFile = steps[readers[0]]
        self._rest = Compose(steps[readers[0] + 1 :])

    def read(self, path: str | Path) -> np.ndarray:
        """Read an image file to (H, W, 3) BGR; raise DamagedFileError if it is none."""
        return self._reader.read(str(path))

    def __call__(
        self, image: Image, sample_id: str | None = None, path: str | None = None
    ) -> dict[str, Any]:
        """Make the model's inputs of one image.

        Args:
            image: the image, or its file.
            sample_id: what the sample is called; by default its file's name without suffix.
            path: where an array comes from.

        Returns:
            ``inputs`` (3, h, w) and ``data_samples``, as the pipeline packs them.
        """
        if isinstance(image, (str, Path)):
            path = str(image)
            image = self.read(image)
        image = check_image(image, path or sample_id or "the array")
        if self._reader.to_float32:
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


def check_image(image: object, name: str) -> np.ndarray:
    """Return an array that is a BGR image, or raise InputError."""
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"{name}: expected a path or an array (H, W, 3) BGR uint8, got {type(image).__name__}"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(
            f"{name}: expected an array (H, W, 3) BGR uint8, got {image.dtype} {image.shape}"
        )
    return image


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
