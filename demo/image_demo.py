"""Draw the predictions for one image: `python demo/image_demo.py IMG CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from vmt_mm.apis.inferencer import check_opacity
from vmt_mm.cli.arguments import (
    add_exif_argument,
    add_model_arguments,
    build_inferencer,
    check_display,
)
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.datasets.transforms.load import displayable
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_image_target, check_outputs, write_image
from vmt_mm.visualization import draw_panel


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("img", help="image file")
    add_model_arguments(parser)
    parser.add_argument("--out-file", help="picture to write; default: show it in a window")
    parser.add_argument(
        "--opacity", type=float, default=1.0, help="opacity of the predictions, 0..1"
    )
    add_exif_argument(parser)
    parser.add_argument("--title", help="title of the picture; default: the file name")
    return parser.parse_args()


@friendly_errors()
def main() -> None:
    """Predict, and write or show the picture."""
    args = parse_args()
    check_opacity(args.opacity)
    if args.out_file:
        check_image_target(Path(args.out_file), "--out-file")
    else:
        check_display()
    inferencer = build_inferencer(args, show_progress=False, turn_by_exif=args.turn_by_exif)
    check_outputs({"--out-file": args.out_file}, [args.img, *inferencer.files_read()])
    image = inferencer.pipeline.read(args.img)
    sample = inferencer(args.img, tasks=args.tasks)[0]
    model = inferencer.model
    tasks = {k: v for k, v in model.tasks.items() if sample.prediction(k) is not None}
    title = args.title or Path(args.img).name
    shown = displayable(image)[..., ::-1]
    panel = draw_panel(shown, sample, tasks, model.dataset_meta, args.opacity, title)
    if args.out_file:
        write_image(Path(args.out_file), panel)
        print(f"picture: {args.out_file}")
        return
    cv2.imshow(title, panel[..., ::-1])
    cv2.waitKey()


if __name__ == "__main__":
    main()
