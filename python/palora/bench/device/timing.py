"""How an item of `make gpu-check` is measured: every plan of an op beside the loop over rays, plain PyTorch and the
library's own product, replayed from CUDA graphs and called one by one; and whole training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from palora.bench.case import Run
from palora.bench.device import rates, tune, values
from palora.bench.device.bound import Bound, stages
from palora.bench.device.clock import Clock, Columns, CudaClock
from palora.bench.device.items import MOST_COMPILED, STEPS, Item, problem, steps
from palora.bench.device.prepare import forced, release, settings
from palora.bench.device.rows import compiled, of_layers
from palora.bench.memory import peak_bytes
from palora.bench.plan import plans_of
from palora.bench.problem import PARTS, Problem

TIMED = (PARTS[0], PARTS[2])
ONE_BY_ONE = ("ours", "eager", "authors", "compiled", "floor")
OFF = "floor, benchmark off"


@dataclass(frozen=True)
class Job:
    """An item whose columns `prepare` ran: their errors, or why they have none."""

    item: Item
    prepared: Mapping[str, dict[str, float]] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.item.name


@dataclass
class Row:
    """Seconds of each column: ``graph`` replayed from a CUDA graph, L2 flushed, ``eager`` called one after the other
    (the larger of host and device). least: bytes and flops that the call cannot do without."""

    name: str
    part: str
    precision: str
    plan: str
    errors: dict[str, float]
    tolerance: float
    graph: dict[str, float] = field(default_factory=dict)
    eager: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    least: dict[str, float] = field(default_factory=dict)


def measure(job: Job, device: torch.device | None = None, clock: Clock | None = None) -> dict[str, Any]:
    """The item's result as JSON types. Raises what a driver or a compiler raises. Elsewhere than on a GPU, for tests,
    ``clock`` is the host's."""
    began = time.perf_counter()
    device = device or torch.device("cuda", torch.cuda.current_device())
    release()
    clock = clock or CudaClock(device, least=5)
    with settings(job.item, job.item.benchmark):
        found = _measured(job, device, clock)
    return {**found, "took": round(time.perf_counter() - began, 2)}


def _measured(job: Job, device: torch.device, clock: Clock) -> dict[str, Any]:
    item = job.item
    if item.what == "rates":
        reached = rates.measured(device, [values.DTYPES[item.precision]], clock, item.seconds)
        return {"bandwidth": reached.bandwidth, "products": next(iter(reached.products.values()))}
    if item.subject in STEPS:
        return asdict(_step(job, device, clock))
    found = problem(item, device)
    if item.what == "tune":
        return _tuned(job, found, clock)
    return {"rows": [asdict(row) for row in _rows(job, found, clock)]}


def _rows(job: Job, found: Problem, clock: Clock) -> list[Row]:
    """Forward, and forward + backward."""
    item, case, tolerance = job.item, found.case, values.TOLERANCE[job.item.precision]
    errors = {name: result["error"] for name, result in job.prepared.items() if result}
    notes = {name: f"lost: {reason}" for name, reason in job.lost.items()}
    functions = {"authors": found.theirs, "floor": found.plain}
    plan = "torch.compile" if item.what == "compiled" else "cuDNN"
    if item.what == "compiled":
        functions = {"compiled": compiled(found.theirs), "floor": found.plain}
    elif item.what == "plain":
        functions = {OFF: found.plain}
    else:
        plan = plans_of(lambda: found.ours(**case))
        if plan not in job.lost:
            errors["ours"] = errors[plan] if plan in errors else found.error(found.ours)
        plans = {n: forced(item, found, n.removeprefix("triton.")) for n in errors if n.startswith("triton.")}
        functions = {"ours": found.ours, **plans, "eager": found.eager, **functions}
        if case["lam"].shape[0] > MOST_COMPILED:
            notes["compiled"] = f"a loop of {case['lam'].shape[0]} rays takes torch.compile minutes: left out"
    right = {n: f for n, f in functions.items() if n in ("authors", "floor", OFF) or errors.get(n, 1e9) <= tolerance}
    with torch.no_grad():
        y = found.eager(**case)
    factors = [case[name] for name in ("A", "B", "D") if name in case]
    least = stages(case["x"], y, case["weight"], case.get("bias"), factors, case["lam"], found.shared)
    rows = [Row(found.name, part, item.precision, plan, errors, tolerance, least=asdict(least[part])) for part in TIMED]
    for row in rows:
        columns = {name: found.prepared(function, row.part) for name, function in right.items()}
        _time(row, columns, item.seconds, clock)
        row.notes |= notes
    return rows


def _time(row: Row, columns: Columns, seconds: float, clock: Clock) -> None:
    times, row.notes = clock.measure(columns, seconds * len(columns))
    row.graph = {name: found.median for name, found in times.items()}
    row.eager = {name: _one_by_one(columns[name](), seconds) for name in columns if name in ONE_BY_ONE}


def _one_by_one(run: Run, seconds: float) -> float:
    """Seconds a call, of calls that follow each other without waiting: the better of three series."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    run()
    wait()
    start = time.perf_counter()
    run()
    wait()
    count = max(1, min(200, int(seconds / 3 / max(time.perf_counter() - start, 1e-6))))
    series = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        series.append((time.perf_counter() - start) / count)
    return min(series)


def _step(job: Job, device: torch.device, clock: Clock) -> Row:
    item = job.item
    name, found, tolerance = steps(item, device)
    columns: dict[str, Callable[[], Run]] = {}
    if item.what == "compiled":
        row = Row(name, "step", item.precision, "torch.compile", {}, tolerance)
        looped = compiled(found.looped)
        if not job.lost:
            columns["compiled"] = lambda: lambda: found.theirs(looped)
    else:
        errors = job.prepared.get("step", {"ours": float("inf"), "loop": 0.0})
        if item.precision != "float32":  # the loop itself is this far from float64; ours may be twice as far
            tolerance = max(tolerance, 2 * errors["loop"])
        row = Row(name, "step", item.precision, "", {"ours": errors["ours"]}, tolerance)
        if not job.lost:
            row.plan, row.least = plans_of(found.ours_backward), asdict(of_layers(found))
            columns |= {"ours": lambda: found.ours} if errors["ours"] <= tolerance else {}
            columns["authors"] = lambda: found.theirs
    columns["floor"] = lambda: found.floor
    _time(row, columns, item.seconds, clock)
    row.notes |= {name: f"lost: {reason}" for name, reason in job.lost.items()}
    row.peak = {name: peak_bytes(prepare(), device) or 0 for name, prepare in columns.items()}
    return row


def _tuned(job: Job, found: Problem, clock: Clock) -> dict[str, Any]:
    op = job.item.subject
    timer = tune.timer(clock, job.item.seconds / 10)
    lost = {name.removeprefix("triton.") for name in job.lost}
    (result,) = tune.tune([(op, lambda: found)], timer, tune.SHORT, lost)
    notes = [f"{name} lost: {reason}" for name, reason in job.lost.items()] + result.notes
    return {
        "name": result.name,
        "tiles": {name: asdict(tile) for name, tile in result.found.tiles.items()},
        "plans": dict(result.found.plans),
        "gain": result.gain,
        "notes": notes,
    }


def shares(row: Mapping[str, Any], bandwidth: float, products: float) -> tuple[float, float]:
    """The least bytes and flops of a row over what the device could have moved and multiplied in ours' time."""
    least, seconds = Bound(**row["least"]), row["graph"]["ours"]
    return least.bytes / seconds / bandwidth, least.flops / seconds / products
