"""Write predictions in the one layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task
from vmt_mm.utils.files import write_image


def write_predictions(
    sample: MultiTaskDataSample, tasks: Mapping[str, Task], out_dir: Path
) -> list[Path]:
    """Write each prediction of a sample as ``<out_dir>/<task>/<id>.png``, in its label format.

    Where that is one of floating-point numbers the file ends with .tiff.

    Returns:
        The files.
    """
    written = []
    for name, task in tasks.items():
        prediction = sample.prediction(name)
        if prediction is not None:
            path = out_dir / name / f"{sample.sample_id}{task.label.suffix}"
            write_image(path, task.label.encode(prediction.cpu().numpy()))
            written.append(path)
    return written
