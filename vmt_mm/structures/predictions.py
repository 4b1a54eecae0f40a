"""Write predictions in the one layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task
from vmt_mm.utils.files import check_outputs, write_image


def check_predictions(
    out_dir: str | Path, tasks: Iterable[str], inputs: Iterable[object], name: str = "out_dir"
) -> None:
    """Raise InputError if predictions of ``tasks`` would be written where something is read."""
    folders = {f"{name} {out_dir}:": Path(out_dir, task) for task in (*tasks, "panels")}
    check_outputs({name: out_dir, **folders}, list(inputs))


def write_predictions(
    sample: MultiTaskDataSample, tasks: Mapping[str, Task], out_dir: Path
) -> list[Path]:
    """Write each prediction of a sample as ``<out_dir>/<task>/<id>.png``, or .tiff for floats."""
    written = []
    for name, task in tasks.items():
        prediction = sample.prediction(name)
        if prediction is not None:
            path = out_dir / name / f"{sample.sample_id}{task.label.suffix}"
            write_image(path, task.label.encode(prediction.cpu().numpy()))
            written.append(path)
    return written
