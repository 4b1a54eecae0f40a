"""Export a model, compare the file with PyTorch, keep it if they agree, and time both."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from vmt_mm.analysis.timing import seconds_in_turn
from vmt_mm.errors import InputError
from vmt_mm.export.formats import LESS_DYNAMIC, Format, Forward
from vmt_mm.export.outputs import TaskOutputs
from vmt_mm.utils.files import atomic_write

#: Largest allowed difference of a task's map, relative to its largest value.
TOLERANCE = 1e-4
#: Largest allowed share of pixels with a different class: ties may be broken differently.
TIED = 1e-3
#: Number of untimed runs; number of faults in a message.
_WARMUP, _SHOWN = 2, 3


def example_inputs(
    size: Sequence[int], dynamic: str | None, channels: int = 3
) -> tuple[Tensor, list[Tensor]]:
    """Return a batch of images of ``size`` (H, W) to trace with, and batches to compare with.

    For a dynamic batch size, two images are traced, since tracers treat a size of 1 as constant.
    ``dynamic`` dimensions ('batch', 'all' or None) are compared at other values, some of them odd.
    """
    height, width = size
    shapes = [(2 if dynamic else 1, height, width), (1, height, width)]
    if dynamic:
        shapes.append((3, height, width))
    if dynamic == "all":
        shapes += [(1, height + 45, max(width - 19, 32)), (2, max(height - 33, 32), width + 64)]
    generator = torch.Generator().manual_seed(0)
    first, *others = (torch.randn(n, channels, h, w, generator=generator) for n, h, w in shapes)
    return first, others


@torch.no_grad()
def compare_outputs(
    wrapped: TaskOutputs, run: Forward, inputs: Sequence[Tensor], limit: float = TOLERANCE
) -> tuple[dict[str, float], list[str]]:
    """Compare an exported model with the original one, on batches of images.

    Returns a dict from task to its largest difference, relative to the largest value or, for
    classes, as share of differing pixels; and one line per fault, such as a difference above
    ``limit`` or, for classes, ``TIED``.
    """
    largest, faults = dict.fromkeys(wrapped.names, 0.0), []
    for images in inputs:
        shape = "x".join(map(str, images.shape))
        try:
            given = run(images)
        except Exception as error:  # runtimes have their own exceptions
            reason = str(error).strip().split("\n")[0]
            return largest, [*faults, f"does not run on {shape}: {reason}"]
        for name, value, expected in zip(wrapped.names, given, wrapped(images), strict=True):
            if value.shape != expected.shape or value.dtype != expected.dtype:
                faults.append(
                    f"{name} on {shape}: {value.dtype} {tuple(value.shape)}, but PyTorch gives "
                    f"{expected.dtype} {tuple(expected.shape)}"
                )
                continue
            if expected.is_floating_point():
                scale, bound = expected.abs().max().clamp(min=1e-12), limit
                difference = ((value - expected).abs().max() / scale).item()
            else:
                difference, bound = (value != expected).float().mean().item(), TIED
            largest[name] = max(largest[name], difference)
            if not difference <= bound:  # also for NaN
                faults.append(f"{name} on {shape}: differs by {difference:.1e}, over {bound:.0e}")
    return largest, faults


def write_checked(
    form: Format,
    wrapped: TaskOutputs,
    inputs: tuple[Tensor, Sequence[Tensor]],
    dynamic: str | None,
    description: Mapping[str, Any],
    path: Path,
    reference: TaskOutputs | None = None,
) -> tuple[Forward, dict[str, float]]:
    """Export a model, run the file, and keep it if it agrees with ``reference``, or the model.

    The model must be in eval mode on the CPU; ``inputs`` are those of :func:`example_inputs`.
    Returns a function that runs the file, and the largest difference per task. If the outputs
    differ, raises InputError and leaves ``path`` unchanged.
    """
    with atomic_write(path) as partial_file:
        trial = partial_file.with_suffix(form.suffix)  # exporters go by the suffix
        try:
            with torch.no_grad():
                form.write(wrapped, inputs[0], dynamic, description, trial)
            run = form.load(trial)
            largest, faults = compare_outputs(reference or wrapped, run, inputs[1])
            if faults:
                why = "; perhaps a layer fixes the traced size: "
                hint = why + LESS_DYNAMIC[dynamic] if dynamic else ""
                problem = f"{path}: not written, since the exported model differs from PyTorch: "
                raise InputError(problem + "; ".join(faults[:_SHOWN]) + hint)
            trial.replace(partial_file)
        finally:
            trial.unlink(missing_ok=True)
    return run, largest


@torch.no_grad()
def measure_latency(runs: Mapping[str, Forward], images: Tensor, rounds: int) -> dict[str, float]:
    """Measure median seconds per function, on the CPU, in turn, after two untimed rounds."""
    calls = [partial(run, images) for run in runs.values()]
    seconds = seconds_in_turn(calls, rounds, _WARMUP)
    return {name: median(values) for name, values in zip(runs, seconds, strict=True)}
