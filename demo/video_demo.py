"""Draw the predictions for a video: `python demo/video_demo.py VIDEO CONFIG CHECKPOINT`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from vmt_mm.apis import MultiTaskInferencer
from vmt_mm.apis.inferencer import check_opacity
from vmt_mm.cli.arguments import add_model_arguments, build_inferencer, check_display
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.errors import InputError
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_file_target, check_outputs
from vmt_mm.visualization import draw_strip
from vmt_mm.visualization.video import VideoReader, write_video

_ESCAPE = 27


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__)
    parser.add_argument("video", help="video file, or camera number")
    add_model_arguments(parser)
    parser.add_argument("--show", action="store_true", help="show frames in a window")
    parser.add_argument("--show-wait-time", type=int, default=1, help="ms between frames")
    parser.add_argument("--output-file", help="video to write, .mp4 or .avi")
    parser.add_argument("--output-fourcc", help="codec; default: by the file extension")
    parser.add_argument("--output-fps", type=float, default=-1, help="default: the input's")
    parser.add_argument("--output-height", type=int, default=-1, help="default: the panel's")
    parser.add_argument(
        "--opacity", type=float, default=0.5, help="opacity of the predictions, 0..1"
    )
    return parser.parse_args()


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError for invalid options."""
    check_opacity(args.opacity)
    if not args.show and not args.output_file:
        raise InputError("nothing to do: give --output-file FILE, --show, or both")
    if args.output_file:
        check_file_target(Path(args.output_file), "--output-file")
    if args.show:
        check_display()
    for name, value in (("fps", args.output_fps), ("height", args.output_height)):
        if value != -1 and value <= 0:
            raise InputError(f"--output-{name} must be positive or -1 (default), got {value}")


def strips(
    inferencer: MultiTaskInferencer, reader: VideoReader, args: argparse.Namespace
) -> Iterator[np.ndarray]:
    """Panels of frames and their predictions, RGB, all of one size."""
    model = inferencer.model
    height = None if args.output_height == -1 else args.output_height
    for frame in track(reader, "predicting", total=len(reader) or None):
        [sample] = inferencer(frame, tasks=args.tasks)
        yield draw_strip(
            frame[..., ::-1], sample, model.tasks, model.dataset_meta, args.opacity, height
        )


@friendly_errors()
def main() -> None:
    """Predict, write and show every frame; Ctrl-C or Escape stops."""
    args = parse_args()
    check_args(args)
    with ExitStack() as stack:
        reader = stack.enter_context(VideoReader(args.video))
        fps = reader.fps if args.output_fps == -1 else args.output_fps
        inferencer = build_inferencer(args, show_progress=False)
        check_outputs({"--output-file": args.output_file}, [args.video, *inferencer.files_read()])
        writer = None
        if args.output_file:
            writer = stack.enter_context(
                write_video(Path(args.output_file), fps, args.output_fourcc)
            )
        with suppress(KeyboardInterrupt):
            for strip in strips(inferencer, reader, args):
                if writer:
                    writer(strip)
                if args.show and not show(strip, args.show_wait_time):
                    break
    if args.output_file:
        print(f"video: {args.output_file}")


def show(strip: np.ndarray, wait_ms: int) -> bool:
    """Show a frame; return False after Escape."""
    cv2.imshow("predictions", strip[..., ::-1])
    return cv2.waitKey(wait_ms) != _ESCAPE


if __name__ == "__main__":
    main()
