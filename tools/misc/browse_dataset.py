"""Draw samples with their labels: `python tools/misc/browse_dataset.py CONFIG`.

Each picture shows an image after augmentation and its labels of all tasks. Samples are evenly
spaced over the dataset, so that all members of a `ConcatDataset` appear.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope
from rich.progress import track

from vmt_mm.apis import load_config
from vmt_mm.cli.arguments import add_config_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.tree import dicts_in, files_read
from vmt_mm.datasets import SeededIndex
from vmt_mm.datasets.transforms.load import displayable
from vmt_mm.registry import DATASETS
from vmt_mm.tasks import build_tasks
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_outputs, write_image
from vmt_mm.visualization import draw_panel


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument(
        "--output-dir", help="folder for pictures; default: work_dirs/browse/<config>"
    )
    parser.add_argument("--phase", choices=("train", "val", "test"), default="train")
    parser.add_argument("--show-number", type=int, default=8, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the augmentation")
    return parser.parse_args()


def main() -> None:
    """Draw the samples."""
    args = parse_args()
    with friendly_errors():
        cfg = load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get("default_scope", "vmt_mm"))
        for entry in dicts_in(cfg[f"{args.phase}_dataloader"]):
            if entry.get("on_device"):
                entry["on_device"] = False  # no model here; the random numbers are the same
        dataset = DATASETS.build(cfg[f"{args.phase}_dataloader"].dataset)
        tasks = build_tasks(cfg.model.tasks)
        bgr = cfg.model.data_preprocessor.get("bgr_to_rgb", False)
        folder = Path(args.output_dir or f"work_dirs/browse/{Path(args.config).stem}")
        check_outputs({"--output-dir": folder}, files_read(cfg))
        count = min(args.show_number, len(dataset))
        spread = np.linspace(0, len(dataset) - 1, count).round().astype(int).tolist()
        for index in track(spread, description="drawing"):
            item = dataset[SeededIndex(index, (args.seed, 0, index))]
            image = displayable(item["inputs"].numpy().transpose(1, 2, 0))
            sample = item["data_samples"]
            panel = draw_panel(
                np.ascontiguousarray(image[..., ::-1] if bgr else image),
                sample,
                tasks,
                dataset.metainfo,
            )
            write_image(folder / f"{sample.sample_id}.png", panel)
        print(f"pictures: {folder}")


if __name__ == "__main__":
    main()
