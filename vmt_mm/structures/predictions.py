"""Write predictions in the folder layout of datasets."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task
from vmt_mm.utils.files import check_outputs, write_image


def check_predictions(
    out_dir: str | Path, tasks: Iterable[str], inputs: Iterable[object], name: str = "out_dir"
) -> None:
    """Raise InputError if predictions of ``tasks`` would overwrite one of the ``inputs``."""
    folders = {f"{name} {out_dir}:": Path(out_dir, task) for task in (*tasks, "panels")}
    check_outputs({name: out_dir, **folders}, list(inputs))


def write_predictions(
    sample: MultiTaskDataSample, tasks: Mapping[str, Task], out_dir: Path
) -> list[Path]:
    """Write a sample's predictions to ``<out_dir>/<task>/<id>.png`` (.tiff for floats)."""
    written = []
    for name, task in tasks.items():
        prediction = sample.prediction(name)
        if prediction is not None:
            path = out_dir / name / f"{sample.sample_id}{task.label.suffix}"
            write_image(path, task.label.encode(prediction.cpu().numpy()))
            written.append(path)
    return written
