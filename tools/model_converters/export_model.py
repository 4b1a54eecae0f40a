"""Export a trained model to ONNX or torch.export.

python tools/model_converters/export_model.py CONFIG CHECKPOINT --out model.onnx --dynamic all

The file is only kept if its outputs match PyTorch on the CPU, also at other batch and image sizes
if these are dynamic. Its metadata contains mean and std, channel order, classes and palettes;
docs/inference.md shows how to use the file with only NumPy and onnxruntime.

With --merge, the updates of LoRA and DoRA are added to the frozen weights first. With PerTask, give
one task per file. The outputs still match those of the model before it was merged.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from rich.table import Table

from vmt_mm.analysis.tables import print_table
from vmt_mm.apis import init_model
from vmt_mm.cli.arguments import add_config_arguments, check_model_arguments
from vmt_mm.cli.errors import friendly_errors
from vmt_mm.config.tree import files_read
from vmt_mm.errors import InputError
from vmt_mm.export import (
    DYNAMIC,
    FORMATS,
    OUTPUTS,
    Forward,
    TaskOutputs,
    describe_model,
    example_inputs,
    measure_latency,
    write_checked,
)
from vmt_mm.utils.console import ToolParser
from vmt_mm.utils.files import check_file_target, check_outputs


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = ToolParser(description=__doc__.splitlines()[0])
    add_config_arguments(parser)
    parser.add_argument("checkpoint", nargs="?", help="checkpoint; omit it if CONFIG is "
                        "an adapter file")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="output file, .onnx or .pt2")
    parser.add_argument("--format", choices=tuple(FORMATS), default="onnx")
    parser.add_argument("--tasks", nargs="+", help="tasks to export; default: all")
    parser.add_argument("--outputs", choices=OUTPUTS, default="logits", help="outputs of the file")
    parser.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="image size; default: the config's"
    )
    parser.add_argument(
        "--dynamic", nargs="?", const="all", choices=DYNAMIC,
        help="dynamic axes: the batch, or batch and image size (all, also if no value is given); "
        "default: none",
    )  # fmt: skip
    parser.add_argument("--merge", action="store_true", help="fold what is linear in the PEFT "
                        "method into the weights")  # fmt: skip
    parser.add_argument("--latency", type=int, metavar="ROUNDS", help="time PyTorch and the file")
    return parser.parse_args()


def check_args(args: argparse.Namespace) -> None:
    """Raise InputError early for arguments that would fail at the end."""
    form = FORMATS[args.format]
    check_model_arguments(args)
    form.check()
    if args.dynamic not in (None, *form.dynamic):
        raise InputError(
            f"--format {args.format} does not support dynamic image sizes; use "
            f"--dynamic {form.dynamic[-1]} or --format onnx"
        )
    if args.out.suffix != form.suffix:
        raise InputError(f"--out: {args.format} files end with {form.suffix}, got {args.out}")
    check_file_target(args.out, "--out")
    if args.size and min(args.size) < 1:
        raise InputError(f"--size must be two positive integers, H W, got {args.size}")
    if args.latency is not None and args.latency < 1:
        raise InputError(f"--latency must be a positive integer, got {args.latency}")


def choose_size(cfg: Config, given: list[int] | None) -> tuple[int, int]:
    """The given size (H, W), or that of the config."""
    size = given or (cfg.get("image_size") or ())[::-1]
    if len(size) != 2:
        raise InputError(f"{cfg.filename} has no `image_size` (width, height); give --size H W")
    return tuple(size)


def export(args: argparse.Namespace) -> None:
    """Write the file, keep it if it matches PyTorch, and print the differences."""
    form = FORMATS[args.format]
    with contextlib.redirect_stdout(sys.stderr):  # libraries print while they build models
        model = init_model(args.config, args.checkpoint, "cpu", args.cfg_options)
    read = [args.config, args.checkpoint, *files_read(model.cfg)]
    check_outputs({"--out": args.out}, read)
    wrapped = TaskOutputs(model, args.tasks, args.outputs).eval().requires_grad_(False)
    size = choose_size(model.cfg, args.size)
    example, inputs = example_inputs(size, args.dynamic, wrapped.image_channels)
    description = describe_model(wrapped, model.dataset_meta, size, args.dynamic)
    exported = merge(wrapped) if args.merge else wrapped
    run, largest = write_checked(
        form, exported, (example, inputs), args.dynamic, description, args.out, wrapped
    )
    table = Table(title=f"{args.format} compared with PyTorch")
    for column in ("task", "channels", "largest relative difference"):
        table.add_column(column)
    for name, difference in largest.items():
        table.add_row(name, str(model.tasks[name].out_channels), f"{difference:.1e}")
    print_table(table)
    shapes = ", ".join("x".join(map(str, images.shape)) for images in inputs)
    print(f"compared on {shapes}\nwrote {args.out}, {args.out.stat().st_size:,} bytes")
    if args.latency:
        merged = {"PyTorch, merged": exported} if args.merge else {}
        report_latency({"PyTorch, eager": wrapped, **merged, args.format: run}, inputs[0], args)


def merge(wrapped: TaskOutputs) -> TaskOutputs:
    """Return a copy with the PEFT method folded into the weights; print what remains of it."""
    merged = copy.deepcopy(wrapped)
    backbone = merged.model.backbone
    name = type(backbone.peft).__name__
    complete = backbone.merge_method(wrapped.names)
    apart = backbone.peft.per_task_forward and len(wrapped.names) > 1
    hint = "; these tasks differ: export them one by one, with --tasks NAME" if apart else ""
    print(f"merged: {'nothing' if complete else 'a part'} of {name} remains{hint}")
    return merged.eval().requires_grad_(False)


def report_latency(
    runs: dict[str, Forward], images: torch.Tensor, args: argparse.Namespace
) -> None:
    """Time functions on one image, in turn; print the medians."""
    seconds = measure_latency(runs, images, args.latency)
    shape, threads = "x".join(map(str, images.shape)), torch.get_num_threads()
    print(f"medians of {args.latency} interleaved rounds on {shape}, {threads} CPU thread(s):")
    for name, value in seconds.items():
        print(f"  {name:16}{1000 * value:9.1f} ms")


def main() -> None:
    """Export the model."""
    args = parse_args()
    with friendly_errors():
        check_args(args)
        export(args)


if __name__ == "__main__":
    main()
