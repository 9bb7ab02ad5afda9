"""Interleaved timing: every column in turn, many rounds, minima and medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch

from palora_kernels.typed import Range

Seconds = Annotated[float, Range(1e-12, 1e9)]


@dataclass(frozen=True)
class Times:
    """Seconds of one column."""

    minimum: Seconds
    median: Seconds
    rounds: Annotated[int, Range(1, 10**12)]


def measure(columns: Mapping[str, Callable[[], object]], budget: float, least: int = 5) -> dict[str, Times]:
    """Run the columns in turn until ``budget`` seconds are spent and each has run ``least`` times.

    On a shared machine a column's neighbours in time saw the same load; compare columns of one call only. Two rounds
    of warm-up are not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in columns}
    for run in [*columns.values()] * 2:
        run()
    end = time.perf_counter() + budget
    while time.perf_counter() < end or min(len(s) for s in seconds.values()) < least:
        for name, run in columns.items():
            seconds[name].append(_once(run))
    return {name: Times(min(s), statistics.median(s), len(s)) for name, s in seconds.items()}


def _once(run: Callable[[], object]) -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start
