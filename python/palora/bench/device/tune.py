"""`palora bench --tune`: tiles and plans by measurement instead of arithmetic.

For every op, shape and dtype: each plan runs forward and backward, each of its launches with each tile it may take, the
others as they are best so far; then the plans are compared, each at its best. What wins is checked against float64
before it is stored. `Limits` leave out what is hardly going to win.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

import torch

import palora_kernels as pk
from palora.bench import ops
from palora.bench.case import Run
from palora.bench.device.clock import Clock, Columns, first_line
from palora.bench.plan import plans_of
from palora.bench.problem import PARTS, Problem
from palora_kernels import implementations
from palora_kernels.triton.launching import tuning
from palora_kernels.triton.launching.tuning import Tile, Tuning

Timer = Callable[[Callable[[], Run]], float]
"""Seconds of what a column prepares; raises RuntimeError where a kernel cannot start."""


@dataclass(frozen=True)
class Limits:
    """near: tiles that the arithmetic, and plans that the clock with the arithmetic's tiles, puts at more than so many
    times the best are not tried. seconds: after so many for a problem nothing more is tried."""

    near: float = float("inf")
    seconds: float = float("inf")


SHORT = Limits(near=2.0, seconds=8.0)


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


def near(trial: tuning.Trial, name: str, times: float) -> list[Tile]:
    """The tiles of a launch that the arithmetic puts at no more than ``times`` the best, the best first."""
    costs = trial.costs[name]
    least = min(costs.values())
    return sorted((tile for tile in trial.asked[name] if costs[tile] <= times * least), key=lambda tile: costs[tile])


def tune(
    jobs: Iterable[tuple[str, Callable[[], Problem]]],
    timer: Timer,
    limits: Limits | None = None,
    without: Collection[str] = (),
) -> Iterator[Tuned]:
    """One result a job; a tile found for an earlier job of the same bucket is kept. ``without``: plans to leave out."""
    known: dict[str, Tile] = {}
    for op, make in jobs:
        result = _Search(op, make(), known, timer, limits or Limits()).best(without)
        known.update(result.found.tiles)
        yield result


class _Search:
    """For the best tiles and plan of one problem."""

    def __init__(self, op: str, problem: Problem, known: dict[str, Tile], timer: Timer, limits: Limits) -> None:
        self.op, self.problem, self.known, self.timer, self.limits = op, problem, known, timer, limits
        self.prepare = problem.prepared(problem.ours, PARTS[2])
        self.notes: list[str] = []
        self.until = time.monotonic() + limits.seconds

    def best(self, without: Collection[str]) -> Tuned:
        with tuning.trying({}) as trial:
            usual = self._plan()
        keys = dict.fromkeys(trial.plans)
        untuned = self._untuned(without)
        seconds: dict[str, float] = {}
        tiles: dict[str, dict[str, Tile]] = {}
        for algorithm in sorted(untuned, key=lambda name: untuned[name]):
            if untuned[algorithm] > self.limits.near * min(untuned.values()):
                break
            with pk.force_plan(**{self.op: algorithm}):
                best, found = self._tiles(untuned[algorithm])
                with tuning.trying({**self.known, **found}):
                    error = self.problem.error()
            if error <= self.problem.tolerance:
                seconds[algorithm], tiles[algorithm] = best, found
            else:
                self.notes.append(f"{algorithm} is wrong, error {error:.1e}: not stored")
        if time.monotonic() > self.until:
            self.notes.append(f"not all was tried in {self.limits.seconds:.0f} s")
        if not seconds:
            return Tuned(self.problem.name, Tuning(), 1.0, self.notes)
        fastest = min(seconds, key=lambda name: seconds[name])
        chosen = {name: tile for of in tiles.values() for name, tile in of.items()} | tiles[fastest]
        before = untuned.get(usual, float("inf"))
        return Tuned(
            self.problem.name, Tuning(chosen, dict.fromkeys(keys, fastest)), before / seconds[fastest], self.notes
        )

    def _plan(self) -> str:
        return plans_of(lambda: self.problem.ours(**self.problem.case)).split(".")[1]

    def _untuned(self, without: Collection[str]) -> dict[str, float]:
        """Seconds of every plan that the call offers, with the arithmetic's tiles."""
        found = {}
        for algorithm in implementations.algorithms(self.op, "triton", self.problem.grad.device.type):
            if algorithm in without:
                continue
            with pk.force_plan(**{self.op: algorithm}):
                if self._plan() == algorithm:
                    with tuning.trying({}):
                        found[algorithm] = self.timer(self.prepare)
        return found

    def _tiles(self, untuned: float) -> tuple[float, dict[str, Tile]]:
        """Seconds with the best tiles, and these by the name of the launch."""
        with tuning.trying({}) as trial:
            self.prepare()()
        chosen: dict[str, Tile] = {}
        best = untuned
        for name in [name for name in trial.asked if name not in self.known]:
            seconds: dict[Tile, float] = {}
            for tile in near(trial, name, self.limits.near):
                if time.monotonic() > self.until:
                    break
                try:
                    with tuning.trying({**self.known, **chosen, name: tile}):
                        seconds[tile] = self.timer(self.prepare)
                except Exception as error:  # Triton's own kinds: out of registers or shared memory, no compilation
                    label = f"{tile.rows}x{tile.columns}x{tile.depth}"
                    self.notes.append(f"{name}: {label} cannot run ({first_line(error)})")
            if seconds:
                chosen[name] = min(seconds, key=lambda tile: seconds[tile])
                best = seconds[chosen[name]]
        if not chosen:
            with tuning.trying(self.known):
                best = self.timer(self.prepare)
        return best, chosen
