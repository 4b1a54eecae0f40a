"""Compare an exported model with PyTorch's, and time both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from vmt_mm.analysis.timing import seconds_in_turn
from vmt_mm.export.formats import Run
from vmt_mm.export.outputs import TaskOutputs

#: Largest difference of a task's map, as a share of its largest value.
TOLERANCE = 1e-4
#: Classes of pixels where two are equally likely may differ: at most this share of the pixels.
TIED = 1e-3
_WARMUP = 2


def example_inputs(
    size: Sequence[int], dynamic: str | None, channels: int = 3
) -> tuple[Tensor, list[Tensor]]:
    """The images to trace with, and those to compare with.

    A batch of two is traced where batches may differ: tracers take a size of 1 for a constant. What
    is dynamic is compared at other values than the traced ones, odd ones among them.

    Args:
        size: (H, W) of the traced images.
        dynamic: None, 'batch' or 'all'.
        channels: of an image.
    """
    shapes: list[tuple[int, ...]] = [(1, *size)]
    if dynamic:
        shapes.append((3, *size))
    if dynamic == "all":
        height, width = size
        shapes += [(1, height + 45, max(width - 19, 32)), (2, max(height - 33, 32), width + 64)]
    generator = torch.Generator().manual_seed(0)
    traced = (2 if dynamic else 1, *size)
    first, *others = (
        torch.randn(n, channels, h, w, generator=generator) for n, h, w in [traced, *shapes]
    )
    return first, others


@torch.no_grad()
def compare_outputs(
    wrapped: TaskOutputs,
    run: Run,
    inputs: Sequence[Tensor],
    advance: Callable[[], object] = lambda: None,
    limit: float = TOLERANCE,
) -> tuple[dict[str, float], list[str]]:
    """Compare an exported model with the one that it was made from.

    Args:
        wrapped: the model, on the CPU.
        run: the exported one.
        inputs: images, a batch of (B, 3, H, W) each.
        advance: called after each of them.
        limit: largest difference that is no fault, see ``TOLERANCE``.

    Returns:
        Task -> largest difference, relative to the map's largest value, or for classes the share of
        pixels that differ; and what is wrong, one line for each fault.
    """
    largest = dict.fromkeys(wrapped.names, 0.0)
    faults = []
    for images in inputs:
        shape = "x".join(map(str, images.shape))
        try:
            given = run(images)
        except Exception as error:  # of any kind: runtimes have their own
            reason = str(error).strip().split("\n")[0]
            return largest, [*faults, f"does not run on {shape}: {reason}"]
        for name, value, expected in zip(wrapped.names, given, wrapped(images), strict=True):
            if value.shape != expected.shape or value.dtype != expected.dtype:
                faults.append(
                    f"{name} on {shape}: {value.dtype} {tuple(value.shape)} where PyTorch gives "
                    f"{expected.dtype} {tuple(expected.shape)}"
                )
                continue
            difference = _difference(value, expected)
            largest[name] = max(largest[name], difference)
            bound = limit if expected.is_floating_point() else TIED
            if not difference <= bound:  # a NaN is no match
                faults.append(f"{name} on {shape}: differs by {difference:.1e}, over {bound:.0e}")
        advance()
    return largest, faults


def _difference(value: Tensor, expected: Tensor) -> float:
    """How far two maps are apart."""
    if not expected.is_floating_point():
        return (value != expected).float().mean().item()
    scale = expected.abs().max().clamp(min=1e-12)
    return ((value - expected).abs().max() / scale).item()


@torch.no_grad()
def measure_latency(
    runs: Mapping[str, Run],
    images: Tensor,
    rounds: int,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Median seconds of each, in turn.

    Args:
        runs: name -> what is timed, on the CPU.
        images: (B, 3, H, W).
        rounds: timed runs of each, after two untimed ones.
        advance: called after each run.
    """
    calls = [partial(run, images) for run in runs.values()]
    seconds = seconds_in_turn(calls, rounds, _WARMUP, advance)
    return {name: median(values) for name, values in zip(runs, seconds, strict=True)}
