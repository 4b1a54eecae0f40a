"""Plot the confusion matrix of a task.

python tools/analysis_tools/confusion_matrix.py CONFIG PREDICTIONS SAVE_DIR --task semseg

PREDICTIONS is a folder that `tools/test.py --out` wrote, or a checkpoint to run on the test set.
Writes SAVE_DIR/confusion_<task>.png and the pixel counts to SAVE_DIR/confusion_<task>.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track

from vmt_mm.analysis.confusion import count_confusion, draw_confusion
from vmt_mm.apis import init_model, load_config
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.inputs import check_inputs
from vmt_mm.config.tree import files_read
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_image, write_json


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument("predictions", type=Path, help="folder of predictions, or a checkpoint")
    parser.add_argument("save_dir", type=Path, help="folder for the plot")
    parser.add_argument("--task", help="task with classes; default: the first one")
    parser.add_argument("--title", help="title of the plot")
    parser.add_argument("--color-theme", default="viridis", help="Matplotlib colormap")
    return parser.parse_args()


def choose_task(cfg: Config, name: str | None) -> Task:
    """The selected task, or the first one with classes."""
    tasks = build_tasks(cfg.model.tasks)
    with_classes = [n for n, task in tasks.items() if task.label.categorical]
    if not with_classes or (name is not None and name not in with_classes):
        raise InputError(f"--task must be one of {with_classes}, got {name!r}")
    return tasks[name or with_classes[0]]


def pairs_of_folder(dataset: object, task: Task, folder: Path) -> Iterator[tuple]:
    """Label, prediction and file of every labelled image."""
    for index in track(
        range(len(dataset)), "reading", console=Console(stderr=True), transient=True
    ):
        info = dataset.get_data_info(index)
        if task.name not in info["label_paths"]:
            continue
        path = folder / task.name / f"{info['sample_id']}{task.label.suffix}"
        if not path.is_file():
            raise InputError(f"{path}: prediction not found; create it with tools/test.py --out")
        label = task.label.decode(info["label_paths"][task.name])
        yield label, task.label.decode_prediction(path), str(path)


def pairs_of_model(dataset: object, task: Task, args: argparse.Namespace) -> Iterator[tuple]:
    """Label, prediction and image of every labelled image."""
    model = init_model(args.config, args.predictions, "cpu", args.cfg_options)
    for index in track(
        range(len(dataset)), "testing", console=Console(stderr=True), transient=True
    ):
        batch = model.data_preprocessor(pseudo_collate([dataset[index]]), False)
        (sample,) = model(**batch, mode="predict", tasks=[task.name])
        label = sample.label(task.name)
        if label is not None:
            prediction = sample.prediction(task.name)
            yield label[0].numpy(), prediction[0].numpy(), str(sample.get("img_path"))


def main() -> None:
    """Count pixels and plot the matrix."""
    args = parse_args()
    with friendly_errors():
        cfg = load_config(args.config, args.cfg_options, training=False)
        init_default_scope(cfg.get("default_scope", "vmt_mm"))
        check_inputs(cfg, training=False)
        task = choose_task(cfg, args.task)
        if not args.predictions.exists():
            raise InputError(f"{args.predictions}: no such folder or checkpoint")
        check_outputs(dict(save_dir=args.save_dir), files_read(cfg))
        predictions = [args.predictions / task.name]
        check_outputs(dict(save_dir=args.save_dir), predictions, may_hold=True)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        dataset.full_init()
        if args.predictions.is_dir():
            pairs = pairs_of_folder(dataset, task, args.predictions)
        else:
            pairs = pairs_of_model(dataset, task, args)
        count = task.out_channels
        matrix = np.zeros((count, count), np.int64)
        for label, prediction, source in pairs:
            matrix += count_confusion(label, prediction, count, int(task.label.fill), source)
        if not matrix.any():
            raise InputError(f"no image of the test set has a label of task {task.name!r}")
        meta = dataset.metainfo.get(task.name, {})
        names = [str(n) for n in meta.get("classes") or range(count)]
        image = draw_confusion(
            matrix, names, args.title or f"{task.name}: % of each label", args.color_theme
        )
        path = args.save_dir / f"confusion_{task.name}.png"
        write_image(path, image)
        write_json(path.with_suffix(".json"), dict(classes=names, pixels=matrix.tolist()))
        print(f"picture: {path}\ncounts: {path.with_suffix('.json')}")


if __name__ == "__main__":
    main()
