"""`palora bench --tune`: tiles and plans by measurement instead of arithmetic.

For every op, shape and dtype: each plan runs forward and backward, each of its launches with each tile it may take, the
others as they are best so far; then the plans are compared, each at its best. What wins is checked against float64
before it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

import palora_kernels as pk
from palora.bench import ops
from palora.bench.case import Run
from palora.bench.device.clock import Clock, Columns, first_line
from palora.bench.plan import plans_of
from palora.bench.problem import PARTS, Problem
from palora_kernels import implementations
from palora_kernels.triton import tuning
from palora_kernels.triton.tuning import Tile, Tuning

TABLES = {"linear": "LOW_RANK", "linear_delta": "DENSE", "conv2d": "CONV", "conv2d_delta": "CONV"}
Timer = Callable[[Callable[[], Run]], float]
"""Seconds of what a column prepares; raises RuntimeError where a kernel cannot start."""


@dataclass
class Tuned:
    """Of one problem: what is stored, and what did not run or was wrong."""

    name: str
    found: Tuning
    gain: float
    """The arithmetic's choice over the measured one, in time."""
    notes: list[str] = field(default_factory=list)


def timer(clock: Clock, seconds: float) -> Timer:
    """The median of a clock's column, which a disturbance of one run does not move."""

    def of(prepare: Callable[[], Run]) -> float:
        columns: Columns = {"it": prepare}
        times, notes = clock.measure(columns, seconds)
        if "it" in notes:
            raise RuntimeError(notes["it"])
        return times["it"].median

    return of


def problems(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Problem]]]:
    """(op, what makes the problem): the shapes of the table."""
    for shape in ops.LINEAR:
        yield "linear", lambda s=shape: ops.linear(s, device, dtype)  # type: ignore[misc]
    for conv in ops.CONV:
        yield "conv2d", lambda s=conv: ops.conv(s, device, dtype, True)  # type: ignore[misc]
    yield "linear_delta", lambda: ops.delta(ops.DELTA, device, dtype)


def tune(jobs: Iterable[tuple[str, Callable[[], Problem]]], time: Timer) -> Iterator[Tuned]:
    """One result a problem. A tile measured for an earlier problem of the same bucket is kept."""
    known: dict[str, Tile] = {}
    for op, make in jobs:
        problem = make()
        result = _tuned(op, problem, known, time)
        known.update(result.found.tiles)
        yield result


def _tuned(op: str, problem: Problem, known: dict[str, Tile], time: Timer) -> Tuned:
    notes: list[str] = []
    prepare = problem.prepared(problem.ours, PARTS[2])
    device = problem.grad.device.type
    with tuning.trying({}) as trial:
        usual = plans_of(lambda: problem.ours(**problem.case)).split(".")[1]
    keys = dict.fromkeys(trial.plans)
    seconds: dict[str, float] = {}
    tiles: dict[str, dict[str, Tile]] = {}
    before = float("inf")
    for algorithm in implementations.algorithms(TABLES[op], "triton", device):
        with pk.force_plan(**{op: algorithm}):
            ran = plans_of(lambda: problem.ours(**problem.case))
            if ran != f"triton.{algorithm}":
                continue  # this call does not offer it
            untuned, best, tiles[algorithm] = _best_tiles(prepare, known, time, notes)
            if algorithm == usual:
                before = untuned
            with tuning.trying({**known, **tiles[algorithm]}):
                error = problem.error()
        if error <= problem.tolerance:
            seconds[algorithm] = best
        else:
            notes.append(f"{algorithm} is wrong, error {error:.1e}: not stored")
            del tiles[algorithm]
    if not seconds:
        return Tuned(problem.name, Tuning(), 1.0, notes)
    fastest = min(seconds, key=lambda name: seconds[name])
    chosen = {name: tile for of in tiles.values() for name, tile in of.items()} | tiles[fastest]
    return Tuned(problem.name, Tuning(chosen, dict.fromkeys(keys, fastest)), before / seconds[fastest], notes)


def _best_tiles(
    prepare: Callable[[], Run], known: dict[str, Tile], time: Timer, notes: list[str]
) -> tuple[float, float, dict[str, Tile]]:
    """Seconds with the arithmetic's tiles and with the best, and these by the name of the launch."""
    with tuning.trying({}) as trial:
        untuned = time(prepare)
    chosen: dict[str, Tile] = {}
    best = untuned
    for name, candidates in trial.asked.items():
        if name in known:
            continue
        seconds: dict[Tile, float] = {}
        for tile in candidates:
            try:
                with tuning.trying({**known, **chosen, name: tile}):
                    seconds[tile] = time(prepare)
            except Exception as error:  # Triton's own kinds: out of registers or shared memory, a failed compilation
                notes.append(f"{name}: {tile.rows}x{tile.columns}x{tile.depth} cannot run ({first_line(error)})")
        if seconds:
            chosen[name] = min(seconds, key=lambda tile: seconds[tile])
            best = seconds[chosen[name]]
    if chosen:
        return untuned, best, chosen
    with tuning.trying(known):
        return untuned, time(prepare), chosen
