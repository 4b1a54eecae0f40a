"""Predict images, folders, globs and videos, and write the predictions.

`python demo/image_demo_with_inferencer.py INPUT CONFIG CHECKPOINT --out-dir OUT`
"""

from __future__ import annotations

import argparse

from vmt_mm.cli.arguments import add_exif_argument, add_model_arguments, build_inferencer
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.utils.console import ToolParser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("img", help="image, video, folder, or quoted glob")
    add_model_arguments(parser)
    parser.add_argument("--out-dir", required=True, help="write to OUT/<task>/<id>.png")
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch")
    parser.add_argument("--panels", action="store_true", help="also write OUT/panels/<id>.png")
    parser.add_argument("--opacity", type=float, default=1.0, help="opacity in panels, 0..1")
    parser.add_argument(
        "--on-error",
        choices=("raise", "skip"),
        default="raise",
        help="for unreadable files: stop, or skip them and list them at the end",
    )
    add_exif_argument(parser)
    return parser.parse_args()


@friendly_errors()
def main() -> None:
    """Predict all inputs; print where the files are."""
    args = parse_args()
    result = build_inferencer(args, turn_by_exif=args.turn_by_exif)(
        args.img,
        return_datasamples=False,
        batch_size=args.batch_size,
        tasks=args.tasks,
        out_dir=args.out_dir,
        panels=args.panels,
        opacity=args.opacity,
        on_error=args.on_error,
    )
    print(f"predictions of {result['images']:,} image(s): {args.out_dir}")


if __name__ == "__main__":
    main()
