"""Measure time and peak memory."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from mmengine.device import get_device
from scipy.stats import binom
from torch.utils.benchmark import Timer

from vmt_mm.errors import InputError
from vmt_mm.utils.memory import keep_freed_memory, peak_resident


def matrix_product_rate(dtype: torch.dtype, side: int = 1024) -> float:
    """Measure operations per second in products of square matrices."""
    a, b = (torch.randn(side, side, device=get_device()).to(dtype) for _ in range(2))
    timer = Timer("a @ b", globals=dict(a=a, b=b), num_threads=torch.get_num_threads())
    return 2 * side**3 / timer.blocked_autorange().median


def seconds_of(run: Callable[[], object]) -> float:
    """Time one call in seconds, until the device has finished."""
    synchronize = getattr(torch, get_device()).synchronize
    synchronize()
    start = time.perf_counter()
    _result = run()  # kept, so that its release is not timed
    synchronize()
    return time.perf_counter() - start


def seconds_in_turn(
    runs: Sequence[Callable[[], object]], rounds: int, untimed: int,
    advance: Callable[[], object] = lambda: None,
) -> list[list[float]]:  # fmt: skip
    """Time runs in turn, after ``untimed`` rounds, so that a slow phase affects all equally."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(untimed + rounds):
        for run, own in zip(runs, seconds, strict=True):
            own.append(seconds_of(run))
            advance()
    return [own[untimed:] for own in seconds]


def paired_ratio(seconds: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of paired times, and its 95 % interval by order statistics."""
    ratios = sorted(own / other for own, other in zip(seconds, base, strict=True))
    low = max(int(binom.ppf(0.025, len(ratios), 0.5)) - 1, 0)
    return median(ratios), ratios[low], ratios[-1 - low]


def peak_memory(work: Callable[..., object], *args: Any) -> int:
    """Measure peak bytes in a separate process: allocated on the GPU, or else resident memory."""
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_run_and_measure, torch.get_num_threads(), work, args).result()
    except BrokenProcessPool:
        raise InputError("the process that measures memory was killed") from None


def _run_and_measure(threads: int, work: Callable[..., object], args: tuple) -> int:
    torch.set_num_threads(threads)
    keep_freed_memory()
    work(*args)
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = peak_resident()
    if peak is None:
        raise InputError("peak memory is measured only on Linux and on GPUs; use --no-memory")
    return peak
