"""Time models against the number of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from mmengine.device import get_device

from vmt_mm.analysis.cases import Case
from vmt_mm.analysis.machine import OperationCounter, seconds_in_turn
from vmt_mm.errors import InputError

_WARMUP = 2


@dataclass(frozen=True)
class Cost:
    """What a case took.

    Attributes:
        case: what was timed.
        median_s: seconds.
        min_s: seconds.
        ratio: of the median to that of the same config and variant with one task; None where that
            is not timed.
        gflop: 1e9 operations of matrix products and convolutions, 2 a multiply-add.
        peak_mem_bytes: see :func:`vmt_mm.analysis.machine.peak_memory`; None if not measured.
    """

    case: Case
    median_s: float
    min_s: float
    ratio: float | None
    gflop: float
    peak_mem_bytes: int | None = None

    @property
    def images_per_s(self) -> float:
        """Images a second, by the median."""
        return self.case.setting.batch / self.median_s

    def record(self) -> dict[str, Any]:
        """A row for JSON, with the device and its threads."""
        return {
            "config": self.case.config,
            **vars(self.case.setting),
            "passes": self.case.passes,
            "median_s": self.median_s,
            "min_s": self.min_s,
            "ratio": self.ratio,
            "images_per_s": self.images_per_s,
            "peak_mem_bytes": self.peak_mem_bytes,
            "gflop": self.gflop,
            "device": get_device(),
            "threads": torch.get_num_threads(),
        }


def measure(
    cases: Sequence[Case], repeats: int, advance: Callable[[], object] = lambda: None
) -> list[Cost]:
    """Time cases in turn, so that a slow phase of the machine hits all of them alike.

    Each runs twice untimed, the first time to count its arithmetic.

    Args:
        cases: what to time.
        repeats: number of rounds.
        advance: called after each of ``len(cases) * calls_of_each(repeats)`` runs.

    Raises:
        InputError: if ``repeats`` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats must be 1 or more, got {repeats}")
    counts = []
    for case in cases:
        with OperationCounter() as counter:
            case.run()
        counts.append(counter.total / 1e9)
        advance()
    runs = [case.run for case in cases]
    seconds = seconds_in_turn(runs, repeats, _WARMUP - 1, advance)
    medians = {_series(case): median(own) for case, own in zip(cases, seconds, strict=True)}
    costs = []
    for case, own, gflop in zip(cases, seconds, counts, strict=True):
        one = medians.get(_series(case, tasks=1))
        ratio = None if one is None else median(own) / one
        costs.append(Cost(case, median(own), min(own), ratio, gflop))
    return costs


def _series(case: Case, **changes: Any) -> tuple:
    return case.config, replace(case.setting, **changes)


def calls_of_each(repeats: int) -> int:
    """How often :func:`measure` runs each case."""
    return _WARMUP + repeats
