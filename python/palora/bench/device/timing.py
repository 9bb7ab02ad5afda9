"""What `palora bench --check` times: every plan of an op beside the loop over rays, plain PyTorch and the library's own
product, replayed from CUDA graphs and called one by one; and whole training steps. One `Item` a process's job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

import palora_kernels as pk
from palora.bench import models, ops
from palora.bench.case import Run
from palora.bench.device import rates, tune, values
from palora.bench.device.bound import Bound, stages
from palora.bench.device.clock import Clock, CudaClock
from palora.bench.device.rows import REQUESTS, of_layers
from palora.bench.memory import peak_bytes
from palora.bench.plan import plans_of
from palora.bench.problem import PARTS, Op, Problem
from palora_kernels import implementations

LARGE = [  # M, n, K, O, T, r
    (5, 1024, 2048, 2048, 2, 8),
    (4, 1024, 4096, 4096, 2, 8),
    (4, 1024, 4096, 4096, 4, 8),
    (4, 1024, 4096, 4096, 4, 16),
    (1, 64, 4096, 4096, 3, 8),
]
LINEAR = [REQUESTS, *LARGE, *ops.LINEAR]
OPS = {"linear": len(LINEAR), "conv2d": len(ops.CONV), "linear_delta": 1}
STEPS: dict[str, Callable[..., models.Named]] = {
    "lenet": models.lenet_steps,
    "mlp": models.mlp_steps,
    "resnet18": models.resnet18_steps,
    "segnet": models.segnet_steps,
}
TIMED = (PARTS[0], PARTS[2])


@dataclass(frozen=True)
class Item:
    """kind: "rates", an op, a network of `STEPS`, or "tune " and an op; index: of the op's shape, or the rays."""

    kind: str
    index: int
    precision: str
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.kind} {self.index} {self.precision}"


def items(precisions: list[str], seconds: float, tuning: bool) -> Iterator[Item]:
    """What matters most first: a run that is cut short leaves the rest to the next."""
    steps = [p for p in precisions if p != "float32"]  # there a step is made of the library's products
    yield from (Item("rates", 0, p, seconds) for p in precisions)
    yield from _ops(precisions[:1], seconds)
    yield from (Item(kind, 5, p, seconds) for kind in STEPS for p in steps)
    yield from _ops([p for p in precisions[1:] if p != "tf32"], seconds)
    yield from (Item(kind, rays, p, seconds) for rays in (1, 11) for kind in STEPS for p in steps)
    if tuning:
        yield from (
            Item(f"tune {item.kind}", item.index, item.precision, seconds) for item in _ops(["bfloat16"], seconds)
        )


def _ops(precisions: list[str], seconds: float) -> Iterator[Item]:
    for precision in precisions:
        for kind, count in OPS.items():
            yield from (Item(kind, index, precision, seconds) for index in range(count))


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


def measure(item: Item, device: torch.device | None = None, clock: Clock | None = None) -> dict[str, Any]:
    """The item's result as JSON types. Raises what a driver or a compiler raises. Elsewhere than on a GPU, for tests,
    ``clock`` is the host's."""
    device = device or torch.device("cuda", torch.cuda.current_device())
    clock = clock or CudaClock(device, least=10)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = item.precision == "tf32"  # convolutions as exact as everything else in the row
    with values.asked_for(item.precision):
        if item.kind == "rates":
            reached = rates.measured(device, [values.DTYPES[item.precision]], clock, item.seconds)
            return {"bandwidth": reached.bandwidth, "products": next(iter(reached.products.values()))}
        if item.kind in STEPS:
            return asdict(_step(item, device, clock))
        problem = _problem(item.kind.removeprefix("tune "), item.index, device, values.DTYPES[item.precision])
        if item.kind.startswith("tune "):
            return _tuned(item, problem, clock)
        return {"rows": [asdict(row) for row in _rows(item, problem, clock)]}


def _problem(op: str, index: int, device: torch.device, dtype: torch.dtype) -> Problem:
    if op == "linear":
        return ops.linear(LINEAR[index], device, dtype)
    if op == "conv2d":
        return ops.conv(ops.CONV[index], device, dtype, True)
    return ops.delta(ops.DELTA, device, dtype)


def _rows(item: Item, problem: Problem, clock: Clock) -> Iterator[Row]:
    case, functions = problem.case, _functions(item.kind, problem)
    tolerance = values.TOLERANCE[item.precision]
    errors = {}
    for name in [name for name in functions if name in ("ours", "eager") or name.startswith("triton.")]:
        errors[name] = problem.error(functions[name])
    with torch.no_grad():
        y = problem.ours(**case)
    factors = [case[name] for name in ("A", "B", "D") if name in case]
    least = stages(case["x"], y, case["weight"], case.get("bias"), factors, case["lam"], problem.shared)
    plan = plans_of(lambda: problem.ours(**case))
    for part in TIMED:
        row = Row(problem.name, part, item.precision, plan, errors, tolerance, least=asdict(least[part]))
        columns = {
            name: problem.prepared(function, part)
            for name, function in functions.items()
            if errors.get(name, 0.0) <= tolerance
        }
        times, row.notes = clock.measure(columns, item.seconds * len(columns))
        row.graph = {name: found.median for name, found in times.items()}
        for name in ("ours", "eager", "authors", "floor"):
            if name in columns:
                row.eager[name] = _one_by_one(columns[name](), item.seconds)
        yield row


def _functions(op: str, problem: Problem) -> dict[str, Op]:
    """Ours as it is chosen; every plan of the kernels; plain PyTorch in few passes; the loop; and the plain product."""

    def forced(algorithm: str) -> Op:
        def call(**case: Any) -> torch.Tensor:
            with pk.force_plan(**{op: algorithm}):
                return problem.ours(**case)

        return call

    found = {"ours": problem.ours}
    for algorithm in implementations.algorithms(tune.TABLES[op], "triton", problem.grad.device.type):
        function = forced(algorithm)
        if plans_of(lambda function=function: function(**problem.case)) == f"triton.{algorithm}":  # type: ignore[misc]
            found[f"triton.{algorithm}"] = function
    found["eager"] = problem.eager
    found["authors"] = problem.theirs
    found["floor"] = problem.plain
    return found


def _one_by_one(run: Run, seconds: float) -> float:
    """Seconds a call, of calls that follow each other without waiting: the better of three series."""
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    run()
    wait()
    start = time.perf_counter()
    run()
    wait()
    count = max(5, min(200, int(seconds / 3 / max(time.perf_counter() - start, 1e-6))))
    series = []
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(count):
            run()
        wait()
        series.append((time.perf_counter() - start) / count)
    return min(series)


def _step(item: Item, device: torch.device, clock: Clock) -> Row:
    precision = torch.bfloat16 if item.precision == "bfloat16" else None
    more: dict[str, Any] = {"channels_last": True} if item.kind == "lenet" else {}
    if item.kind == "segnet":
        more = {"chunk": None, "optimise": True}
    name, steps, tolerance = STEPS[item.kind](device, precision=precision, rays=item.index, **more)
    error = steps.error()
    if item.precision != "float32":  # the loop itself is this far from float64; ours may be twice as far
        tolerance = max(tolerance, 2 * steps.error(ours=False))
    row = Row(
        f"{name}, {item.index} rays", "step", item.precision, plans_of(steps.ours_backward), {"ours": error}, tolerance
    )
    row.least = asdict(of_layers(steps))
    columns: Mapping[str, Callable[[], Run]] = {
        "ours": lambda: steps.ours,
        "authors": lambda: steps.theirs,
        "floor": lambda: steps.floor,
    }
    times, row.notes = clock.measure(columns, item.seconds * len(columns))
    row.graph = {name: found.median for name, found in times.items()}
    for name, prepare in columns.items():
        row.eager[name] = _one_by_one(prepare(), item.seconds)
        row.peak[name] = peak_bytes(prepare(), device) or 0
    return row


def _tuned(item: Item, problem: Problem, clock: Clock) -> dict[str, Any]:
    op = item.kind.removeprefix("tune ")
    (result,) = tune.tune([(op, lambda: problem)], tune.timer(clock, item.seconds / 10))
    return {
        "name": result.name,
        "tiles": {name: asdict(tile) for name, tile in result.found.tiles.items()},
        "plans": dict(result.found.plans),
        "gain": result.gain,
        "notes": result.notes,
    }


def shares(row: Mapping[str, Any], bandwidth: float, products: float) -> tuple[float, float]:
    """The least bytes and flops of a row over what the device could have moved and multiplied in ours' time."""
    least, seconds = Bound(**row["least"]), row["graph"]["ours"]
    return least.bytes / seconds / bandwidth, least.flops / seconds / products
