"""What the machine can do, and what a piece of work asks of it: arithmetic and memory."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.device import get_device
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from vmt_mm.errors import InputError
from vmt_mm.utils.compat import CPU_ATTENTION, CPU_ATTENTION_BACKWARD, FLOP_FORMULAS

#: Sides of the matrices whose products are timed, how often, and what one of them may take.
_SMALLEST, _LARGEST, _PRODUCTS, _LONGEST_S = 64, 2048, 5, 0.25


class OperationCounter(TorchDispatchMode):
    """A context that counts operations, 2 a multiply-add, of matrix products and convolutions.

    They are counted where they reach PyTorch's kernels, by its own formulas, so it does not matter
    which module asked for them: those within fused attention count too. PyTorch's own counter knows
    the fused attention of GPUs alone, and cannot follow a gradient that is taken within a forward
    pass.

    Attributes:
        total: operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation, and count it."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        known = packet in FLOP_FORMULAS or packet in (CPU_ATTENTION, CPU_ATTENTION_BACKWARD)
        if not known:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if packet is CPU_ATTENTION:
            self.total += sdpa_flop_count(*(x.shape for x in args[:3]))
        elif packet is CPU_ATTENTION_BACKWARD:
            self.total += sdpa_backward_flop_count(*(x.shape for x in args[:4]))
        elif known:
            self.total += FLOP_FORMULAS[packet](*args, **kwargs, out_val=result)
        return result


def matrix_product_rate(dtype: torch.dtype) -> float:
    """Operations a second of products of two square matrices, by the median of five.

    The matrices grow until a product of the next ones, 8 times as many operations, would take more
    than a quarter of a second, up to 2048 x 2048: a processor without arithmetic in ``dtype`` is a
    hundred times slower than one with it, and must not keep anyone waiting.
    """
    side, seconds = _SMALLEST, _product_seconds(_SMALLEST, dtype)
    while side < _LARGEST and 8 * seconds <= _LONGEST_S:
        side *= 2
        seconds = _product_seconds(side, dtype)
    return 2 * side**3 / seconds


def _product_seconds(side: int, dtype: torch.dtype) -> float:
    """Median seconds of a product of two (side, side) matrices; the first one is not timed."""
    a, b = (torch.randn(side, side, device=get_device()).to(dtype) for _ in range(2))
    a @ b
    return median(seconds_of(lambda: a @ b) for _ in range(_PRODUCTS))


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one call, until the device has done all of it."""
    synchronize = getattr(torch, get_device()).synchronize
    synchronize()
    start = time.perf_counter()
    result = run()
    synchronize()
    end = time.perf_counter()
    del result  # kept until here: to free it is no part of the cost
    return end - start


def seconds_in_turn(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    untimed: int,
    advance: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Seconds of each, in turn round after round, so that a slow phase hits all alike.

    Args:
        runs: what is timed.
        rounds: timed runs of each.
        untimed: rounds before them.
        advance: called after each run.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(untimed + rounds):
        for run, own in zip(runs, seconds, strict=True):
            duration = seconds_of(run)
            if number >= untimed:
                own.append(duration)
            advance()
    return seconds


def peak_memory(work: Callable[..., object], *args: Any) -> int:
    """Peak memory of ``work(*args)``, bytes, in a process of its own.

    On a GPU: what PyTorch had allocated there at once. On a CPU: the process's resident set, in
    which PyTorch itself is some hundred megabytes.

    Args:
        work: a function that another process can import.
        args: its arguments.

    Raises:
        InputError: if the process ended without a result.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    arguments = (there, torch.get_num_threads(), work, args)
    process = context.Process(target=_report_peak, args=arguments)
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        raise InputError(
            f"the process that measures memory ended with exit code {process.exitcode}"
        ) from None
    finally:
        here.close()
        process.join()


def _report_peak(
    result: Connection, threads: int, work: Callable[..., object], args: tuple
) -> None:
    torch.set_num_threads(threads)
    work(*args)
    if torch.cuda.is_available():
        result.send(torch.cuda.max_memory_allocated())
        return
    result.send(1024 * _peak_resident_set())


def _peak_resident_set() -> int:
    """Kilobytes; what the operating system counts for a process begins with its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak // 1024 if sys.platform == "darwin" else peak
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
