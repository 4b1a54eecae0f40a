"""What the web page computes: predictions of one image and their archive."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vmt_mm.apis.inferencer import MultiTaskInferencer
from vmt_mm.datasets.transforms.load_image import displayable
from vmt_mm.errors import CorruptFileError, InputError
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.utils.files import encode_image, write_bytes
from vmt_mm.visualization import draw_overlay


@dataclass(frozen=True)
class Prediction:
    """One image and what the model makes of it.

    Attributes:
        name: of the image, without suffix.
        image: (H, W, 3) RGB, uint8.
        sample: its predictions.
    """

    name: str
    image: np.ndarray
    sample: MultiTaskDataSample


def predict(
    inferencer: MultiTaskInferencer, path: Path, tasks: Sequence[str], max_megapixels: float
) -> Prediction:
    """Predict an uploaded file, turned by its EXIF orientation as the browser shows it.

    Raises:
        InputError: if it is no image, too large, or no task is chosen; the message names the file
            as the user does, without its folder.
    """
    if not tasks:
        raise InputError("Choose one task at least.")
    content = _read(path, max_megapixels)
    image = inferencer.pipeline.reader.decode(content, path.name, turn=True)
    inputs = inferencer.pipeline.prepare(image, path.stem)
    [sample] = inferencer.forward([inputs], tasks)
    return Prediction(path.stem, cv2.cvtColor(displayable(image), cv2.COLOR_BGR2RGB), sample.cpu())


def write_archive(
    prediction: Prediction, inferencer: MultiTaskInferencer, folder: Path, opacity: float
) -> Path:
    """Write predictions and pictures as ``<folder>/<name>_predictions.zip``.

    It holds ``<task>/<name>.png`` (or .tiff) in the format of the labels, ``overlays/<task>.png``
    and ``panel.png``.

    Args:
        prediction: what to write.
        inferencer: of its model.
        folder: where to.
        opacity: of the overlays, 0..1.

    Returns:
        The file.
    """
    model, sample = inferencer.model, prediction.sample
    tasks = {k: v for k, v in model.tasks.items() if sample.prediction(k) is not None}
    pictures = {"panel.png": inferencer.draw(prediction.image[..., ::-1], sample, opacity)}
    for name, task in tasks.items():
        overlay = draw_overlay(prediction.image, sample, task, model.dataset_meta, opacity)
        pictures[f"overlays/{name}.png"] = overlay
        values = task.label.encode(sample.prediction(name).numpy())
        pictures[f"{name}/{prediction.name}{task.label.suffix}"] = values
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, picture in pictures.items():
            archive.writestr(name, encode_image(picture, Path(name).suffix))
    path = folder / f"{prediction.name}_predictions.zip"
    write_bytes(path, content.getvalue())
    return path


def encode_png(image: np.ndarray) -> bytes:
    """Encode a grey (H, W) or RGB (H, W, 3) image."""
    return encode_image(image, ".png")


def _read(path: Path, max_megapixels: float) -> bytes:
    """Read an image file of limited size."""
    try:
        content = path.read_bytes()
    except OSError:
        raise InputError(f"{path.name} is no longer there: upload it again.") from None
    try:
        with Image.open(io.BytesIO(content)) as header:  # reads no pixel yet
            megapixels = header.width * header.height / 1e6
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise CorruptFileError(
            f"{path.name} is no image that can be read. Expected: JPEG, PNG, BMP, WebP or TIFF."
        ) from None
    if megapixels > max_megapixels:
        raise InputError(
            f"{path.name} has {megapixels:.1f} megapixels; at most {max_megapixels:g} are allowed."
        )
    return content
