"""Draw the predictions for one image: `python demo/image_demo.py IMG CONFIG CHECKPOINT`.

With `--compare CONFIG CHECKPOINT`, those of a second model in a second row.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2

from vmt_mm.apis import MultiTaskInferencer
from vmt_mm.apis.inferencer import check_opacity
from vmt_mm.cli.arguments import (
    add_exif_argument,
    add_model_arguments,
    build_inferencer,
    check_display,
)
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.datasets.transforms.load import displayable
from vmt_mm.errors import InputError
from vmt_mm.tasks import Task
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_image_target, check_outputs, write_image
from vmt_mm.visualization import draw_panel


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("img", help="image file")
    add_model_arguments(parser)
    parser.add_argument(
        "--compare", nargs="+", metavar="FILE", help="config and checkpoint of a second model"
    )
    parser.add_argument("--out-file", help="picture to write; default: show it in a window")
    parser.add_argument(
        "--opacity", type=float, default=1.0, help="opacity of the predictions, 0..1"
    )
    parser.add_argument("--maps-only", action="store_true", help="do not show the image")
    add_exif_argument(parser)
    parser.add_argument("--title", help="title of the picture; default: the file name")
    return parser.parse_args()


def load_models(args: argparse.Namespace) -> dict[str, MultiTaskInferencer]:
    """The models, by the names of their rows."""
    options = dict(show_progress=False, turn_by_exif=args.turn_by_exif)
    first = build_inferencer(args, **options)
    if not args.compare:
        return dict(prediction=first)
    if len(args.compare) > 2:
        raise InputError(f"--compare takes a config and a checkpoint, got {args.compare}")
    files = [(args.config, args.checkpoint), (*args.compare, None)[:2]]
    args.config, args.checkpoint = files[1]
    stems = ([Path(own[place] or own[0]).stem for own in files] for place in (0, 1))
    names = next((pair for pair in stems if pair[0] != pair[1]), ["first model", "second model"])
    return dict(zip(names, (first, build_inferencer(args, **options)), strict=True))


def join_tasks(models: Iterable[Any]) -> tuple[dict[str, Task], dict[str, Mapping]]:
    """Tasks of all models and their metainfo; tasks of the same name must be the same."""
    tasks: dict[str, Task] = {}
    meta: dict[str, Mapping] = {}
    for model in models:
        for name, task in model.tasks.items():
            own = model.dataset_meta.get(name) or {}
            known = (tasks.setdefault(name, task), meta.setdefault(name, own))
            one, two = (
                f"{which.describe_output()} {[*about.get('classes', ())]}"
                for which, about in (known, (task, own))
            )
            if one != two:
                raise InputError(f"--compare: task {name!r} differs: {one} and {two}"[:400])
    return tasks, meta


@friendly_errors()
def main() -> None:
    """Predict, and write or show the picture."""
    args = parse_args()
    check_opacity(args.opacity)
    if args.out_file:
        check_image_target(Path(args.out_file), "--out-file")
    else:
        check_display()
    models = load_models(args)
    read = [path for inferencer in models.values() for path in inferencer.files_read()]
    check_outputs({"--out-file": args.out_file}, [args.img, *read])
    tasks, meta = join_tasks(inferencer.model for inferencer in models.values())
    samples = {
        name: inferencer(args.img, tasks=args.tasks)[0] for name, inferencer in models.items()
    }
    tasks = {k: v for k, v in tasks.items() if any(f"pred_{k}" in x for x in samples.values())}
    image = next(iter(models.values())).pipeline.read(args.img)
    shown = None if args.maps_only else displayable(image)[..., ::-1]
    title = args.title or Path(args.img).name
    panel = draw_panel(shown, samples, tasks, meta, args.opacity, title)
    if args.out_file:
        write_image(Path(args.out_file), panel)
        print(f"picture: {args.out_file}")
        return
    cv2.imshow(title, panel[..., ::-1])
    cv2.waitKey()


if __name__ == "__main__":
    main()
