"""Check all files of a dataset: `python tools/misc/verify_dataset.py ROOT --config CONFIG`.

Every image must decode, and every label must be valid for its task: same size as the image, classes
in range, normals of unit length. Prints a table and writes `report.json`, `contact_sheet.png` (some
images with all labels) and `histogram.png`. Lists the files with problems and exits with 1 if there
are any.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich
from mmengine.config import Config, DictAction
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope

from vmt_mm.apis import load_config
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.tree import LOADERS, dicts_in, files_read
from vmt_mm.datasets.transforms import LoadImageFromFile
from vmt_mm.datasets.transforms.load import displayable
from vmt_mm.datasets.verification import Verification, choose_entries, verify
from vmt_mm.errors import InputError
from vmt_mm.registry import DATASETS
from vmt_mm.structures import MultiTaskDataSample
from vmt_mm.tasks import Task, build_tasks
from vmt_mm.utils.console import ToolParser, print_problems
from vmt_mm.utils.files import check_outputs, write_image, write_json
from vmt_mm.visualization import draw_contact_sheet, draw_histogram


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of the dataset")
    parser.add_argument(
        "--config",
        required=True,
        help="config that defines the tasks: those of its datasets in ROOT, or of all its datasets "
        "if none is in ROOT",
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, help="KEY=VALUE, merged into the config"
    )
    parser.add_argument(
        "--split", nargs="+", help="names of lists in splits/; default: those of the config"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for results; default: work_dirs/verify/<root>"
    )
    parser.add_argument("--show-number", type=int, default=8, help="images in the contact sheet")
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="worker processes"
    )
    return parser.parse_args()


def datasets_of(cfg: Config, root: Path, source: str) -> list[Mapping[str, Any]]:
    """Datasets of a config with data in ``root``, also those inside wrappers; if none, all."""
    entries = [
        entry
        for name in LOADERS
        for entry in dicts_in((cfg.get(name) or {}).get("dataset"))
        if "tasks" in entry and "type" in entry
    ]
    if not entries:
        problem = "no train, val or test dataset has `type` and `tasks`, as MultiTaskDataset does"
        raise InputError(f"{source}: {problem}; pass a config with one")
    here = [e for e in entries if Path(e.get("data_root", "")).resolve() == root.resolve()]
    return here or entries


def describe(
    entries: Sequence[Mapping[str, Any]], source: str
) -> tuple[dict[str, Task], dict[str, Any]]:
    """Tasks of all datasets, and their metainfo per task; the first definition is used."""
    tasks: dict[str, Task] = {}
    meta: dict[str, Any] = {}
    for entry in entries:
        kind = DATASETS.get(entry["type"]) if isinstance(entry["type"], str) else entry["type"]
        meta = {**getattr(kind, "METAINFO", {}), **entry.get("metainfo", {}), **meta}
        for name, task in build_tasks(entry["tasks"]).items():
            tasks.setdefault(name, task)
    for name, task in tasks.items():
        task.check_metainfo(meta.get(name, {}), source)
    return tasks, meta


def splits_of(args: argparse.Namespace, entries: Sequence[Mapping[str, Any]]) -> dict[str, Path]:
    """Dict from split names to files with their ids."""
    files = [f"splits/{name}.txt" for name in args.split or ()] or [
        entry.get("ann_file", "splits/train.txt") for entry in entries
    ]
    splits: dict[str, Path] = {}
    for file in files:
        path = args.root / file
        if splits.setdefault(Path(file).stem, path) != path:
            raise InputError(
                f"{splits[Path(file).stem]} and {path}: two lists of the same name; select one "
                "with --split"
            )
    return splits


def write_pictures(
    result: Verification,
    tasks: Mapping[str, Task],
    meta: Mapping[str, Any],
    names: Mapping[str, Mapping[int, str]],
    reader: LoadImageFromFile,
    args: argparse.Namespace,
) -> list[Path]:
    """Write the contact sheet and the histogram, unless they are empty."""
    written = []
    chosen = choose_entries(sum(result.entries.values(), []), args.show_number)
    samples = [sample for entry in chosen if (sample := load(entry, tasks, reader))]
    if samples:
        written.append(args.out / "contact_sheet.png")
        write_image(written[-1], draw_contact_sheet(samples, tasks, meta))
    shares = {
        task: {
            split: {v: n / summaries[task].valid for v, n in summaries[task].values.items()}
            for split, summaries in result.summaries.items()
        }
        for task in tasks
        if any(summaries[task].values for summaries in result.summaries.values())
    }
    if shares:
        written.append(args.out / "histogram.png")
        write_image(written[-1], draw_histogram(shares, names))
    return written


def load(
    entry: dict, tasks: Mapping[str, Task], reader: LoadImageFromFile
) -> tuple[np.ndarray, MultiTaskDataSample] | None:
    """An RGB image (H, W, 3) and its labels; None if the image cannot be read."""
    steps = [reader, dict(type="LoadLabels"), dict(type="PackMultiTaskInputs")]
    specs = {name: task.label for name, task in tasks.items()}
    try:
        item = Compose(steps)(dict(entry, label_specs=specs, on_error="skip", skipped={}))
    except InputError:
        return None
    image = displayable(item["inputs"].numpy().transpose(1, 2, 0))
    return image[..., ::-1], item["data_samples"]


def reader_of(entries: Sequence[Mapping[str, Any]]) -> LoadImageFromFile:
    """The first ``LoadImageFromFile`` of the datasets' pipelines, or a default one."""
    steps = [step for entry in entries for step in entry.get("pipeline") or ()]
    kinds = ("LoadImageFromFile", "vmt_mm.LoadImageFromFile", LoadImageFromFile)
    found = next((step for step in steps if step.get("type") in kinds), {})
    return LoadImageFromFile(**{k: v for k, v in found.items() if k != "type"})


def main() -> int:
    """Verify the dataset; return the exit status."""
    args = parse_args()
    with friendly_errors():
        cfg = load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get("default_scope", "vmt_mm"))
        entries = datasets_of(cfg, args.root, args.config)
        tasks, meta = describe(entries, args.config)
        args.out = args.out or Path("work_dirs/verify") / args.root.resolve().name
        check_outputs({"--out": args.out}, [args.root, *files_read(cfg)])
        splits = splits_of(args, entries)
        result = verify(args.root, tasks, splits, args.workers, reader := reader_of(entries))
        names = {name: dict(enumerate(meta.get(name, {}).get("classes", ()))) for name in tasks}
        write_json(args.out / "report.json", result.as_dict(names))
        pictures = write_pictures(result, tasks, meta, names, reader, args)
        rich.print(result.table())
        for note in result.notes:
            print(f"note: {note}")
        print_problems(result.problems)
        print(f"{len(result.problems):,} problem(s); {args.out / 'report.json'}")
        for path in pictures:
            print(f"picture: {path}")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
