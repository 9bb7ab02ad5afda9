"""How functions are timed: on a GPU replayed from CUDA graphs, between events; on the host by its own clock.

A column is a function that prepares (makes leaves, runs a forward pass whose backward is timed) and returns what is
timed. Both run on one side stream: autograd runs a backward on the stream of its forward, so that only then all of it
is captured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from palora.bench.case import Run
from palora.bench.memory import peak_bytes
from palora.bench.timing import Times

Columns = Mapping[str, Callable[[], Run]]
WARM_UP = 3
_FLUSH = 256 * 2**20  # bytes written before a run, more than the L2 cache of any GPU: every run starts from memory


class Clock(Protocol):
    """Seconds of each column, and notes on what was not as it should be, by column."""

    def measure(self, columns: Columns, budget: float) -> tuple[dict[str, Times], dict[str, str]]: ...

    def peak(self, prepare: Callable[[], Run]) -> int | None: ...


class HostClock:
    """The host's clock, for the CPU; no graphs."""

    def __init__(self, least: int = 3) -> None:
        self.least = least

    def measure(self, columns: Columns, budget: float) -> tuple[dict[str, Times], dict[str, str]]:
        runs = {name: prepare() for name, prepare in columns.items()}
        for run in runs.values():
            run()
        return _rounds({name: _timed_on_host(run) for name, run in runs.items()}, budget, self.least), {}

    def peak(self, prepare: Callable[[], Run]) -> int | None:
        return peak_bytes(prepare(), torch.device("cpu"))


def _timed_on_host(run: Run) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return once


def _rounds(columns: Mapping[str, Callable[[], float]], budget: float, least: int) -> dict[str, Times]:
    """The columns in turn, each until it has had its share of the budget and has run often enough: a slow one does not
    keep the others waiting."""
    seconds: dict[str, list[float]] = {name: [] for name in columns}
    left = dict.fromkeys(columns, budget / max(len(columns), 1))
    while due := [name for name in columns if left[name] > 0 or len(seconds[name]) < least]:
        for name in due:
            start = time.perf_counter()
            seconds[name].append(columns[name]())
            left[name] -= time.perf_counter() - start
    return {name: Times(min(s), statistics.median(s), len(s)) for name, s in seconds.items()}


class CudaClock:
    """Every column is captured once in a CUDA graph and replayed, in turn with the others.

    Before each replay the L2 cache is overwritten, which also gives the host the time to enqueue: the events see the
    graph alone. What cannot be captured runs op by op between the same events, and a note says so.
    """

    def __init__(self, device: torch.device, least: int = 20) -> None:
        self.device, self.least = device, least
        self.stream = torch.cuda.Stream(device)
        self.cache = torch.empty(_FLUSH, dtype=torch.int8, device=device)

    def measure(self, columns: Columns, budget: float) -> tuple[dict[str, Times], dict[str, str]]:
        runs: dict[str, Callable[[], float]] = {}
        notes: dict[str, str] = {}
        for name, prepare in columns.items():
            run = self._warm(prepare)
            try:
                run = self._captured(run)
            except RuntimeError as error:
                torch.cuda.synchronize(self.device)
                notes[name] = f"not captured in a CUDA graph: {first_line(error)}"
            runs[name] = self._between_events(run)
        return _rounds(runs, budget, self.least), notes

    def peak(self, prepare: Callable[[], Run]) -> int | None:
        run = self._warm(prepare)  # workspaces of libraries are there afterwards
        return peak_bytes(run, self.device)

    def _warm(self, prepare: Callable[[], Run]) -> Run:
        """Compiled kernels, library handles and workspaces have to exist before a capture."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            run = prepare()
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        torch.cuda.synchronize(self.device)
        return run

    def _captured(self, run: Run) -> Run:
        """The replay. Inputs are the tensors behind ``run``, at fixed addresses; results stay in the graph's pool."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            run()
        graph.replay()
        torch.cuda.synchronize(self.device)
        return graph.replay

    def _between_events(self, run: Run) -> Callable[[], float]:
        def once() -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            with torch.cuda.stream(self.stream):
                self.cache.zero_()
                start.record()
                run()
                end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) * 1e-3

        return once


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
