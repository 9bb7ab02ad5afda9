"""What a plan computes on the device, with every tile that its launches may take, against the definition in float64.

Inputs lie between guards of NaN, so that an element read outside shows; memory that a call allocates holds NaN until
it is written; and every call is made again and must give the same bits, which a race would not. The first round
leaves the choice of tiles to the package; each other gives every launch the next of its tiles at once, and where a
round is wrong each launch is tried alone, to name the tile.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

import palora_kernels as pk
from palora.bench.device import coverage
from palora.bench.plan import plans_of
from palora_kernels import implementations, versions
from palora_kernels.triton.launching import spills, tuning
from palora_kernels.triton.launching.tuning import Tile

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "tf32": torch.float32}
# Of the largest value. float32: sums of some hundred products; the others: a few roundings of intermediate results.
TOLERANCE = {"float32": 1e-4, "tf32": 5e-3, "bfloat16": 4e-2, "float16": 8e-3}
GUARD = 4096  # elements of NaN before and behind every input; a multiple of every alignment


@dataclass(frozen=True)
class Job:
    """One call (its place in `coverage.calls`), one plan, one precision; with ``tiles`` every tile, else the chosen."""

    call: int
    label: str
    backend: str
    algorithm: str
    precision: str
    tiles: bool

    @property
    def name(self) -> str:
        return f"{self.backend}.{self.algorithm} {self.label}, {self.precision}" + (", all tiles" if self.tiles else "")


@dataclass(frozen=True)
class Wrong:
    """error: of the worst result, over its largest value; infinite for NaN. tiles: by the name of the launch."""

    worst: str
    error: float
    tiles: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Report:
    """rounds: sets of tiles that ran. worst, error: of all that is right, so that tolerances can be judged."""

    rounds: int
    worst: str
    error: float
    wrong: list[Wrong]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def jobs(precisions: list[str], backends: list[str], device: str = "cuda") -> list[Job]:
    """The plans as they are chosen first, then those with all tiles."""
    found = []
    for index, call in enumerate(coverage.calls()):
        for backend in backends:
            for algorithm in implementations.algorithms(call.op, backend, device):
                label = f"{call.op} {call.label}"
                tiles = call.tiles and backend == "triton"
                found += [
                    Job(index, label, backend, algorithm, p, every)
                    for every in ((False, True) if tiles else (False,))
                    for p in precisions
                    if call.takes(algorithm, DTYPES[p]) and (p != "tf32" or backend == "triton")
                ]
    return sorted(found, key=lambda job: (job.tiles, precisions.index(job.precision)))


@contextmanager
def asked_for(precision: str) -> Iterator[None]:
    """float32 products as they are, or rounded to tf32, in the kernels and in the library."""
    with versions.float32_products(precision == "tf32"):
        yield


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Everything that is allocated inside holds NaN until it is written."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def guarded(tensor: Tensor, device: torch.device) -> Tensor:
    """The same values and strides, with NaN before the first and behind the last element."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    buffer = torch.full((span + 2 * GUARD,), float("nan"), dtype=tensor.dtype, device=device)
    return buffer.as_strided(tensor.shape, tensor.stride(), GUARD).copy_(tensor) if tensor.numel() else buffer[:0]


class _Call:
    """The tensors of a job on the device, and what the definition makes of them."""

    def __init__(self, job: Job, device: torch.device) -> None:
        self.job, dtype = job, DTYPES[job.precision]
        call = coverage.calls()[job.call]
        self.op, self.name, self.options = getattr(pk, call.op), call.op, call.options
        torch.manual_seed(0)
        made = call.make()
        rounded = {k: v if v is None else v.to(torch.float32 if k == "lam" else dtype) for k, v in made.items()}
        self.inputs = {k: v if v is None else guarded(v, device) for k, v in rounded.items()}
        exact = {k: v if v is None else v.to(device).double() for k, v in rounded.items()}
        with torch.no_grad():
            shape = self.op(**exact, **self.options, backend="reference").shape
        grad = torch.randn(shape).to(dtype)
        self.grad = guarded(grad, device)
        self.wanted = self.results(exact, self.grad.double(), "reference")

    def results(self, case: dict[str, Tensor | None], grad: Tensor, backend: str) -> dict[str, Tensor]:
        leaves = {k: None if v is None else v.detach().requires_grad_() for k, v in case.items()}
        y = self.op(**leaves, **self.options, backend=backend)
        given = {k: v for k, v in leaves.items() if v is not None}
        grads = torch.autograd.grad(y, list(given.values()), grad)
        return {"output": y.detach(), **{f"d{k}": g for k, g in zip(given, grads, strict=True)}}

    def ours(self) -> dict[str, Tensor]:
        with pk.force_plan(**{self.name: self.job.algorithm}), poisoned_memory():
            return self.results(self.inputs, self.grad, self.job.backend)

    def ran(self) -> str:
        with pk.force_plan(**{self.name: self.job.algorithm}):
            return plans_of(lambda: self.op(**self.inputs, **self.options, backend=self.job.backend))

    def errors(self, tiles: dict[str, Tile] | None) -> dict[str, float]:
        """By result; infinite where something is not a number, or where a second call gave other bits.

        None: as everybody calls it, so that the second call is a warm one.
        """
        with nullcontext() if tiles is None else tuning.trying(tiles):
            found, again = self.ours(), self.ours()
        worst = {}
        for key, want in self.wanted.items():
            got = found[key]
            if got.shape != want.shape:
                worst[f"shape of {key}"] = float("inf")
            elif want.numel():
                error = float((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-30))
                worst[key] = error if error == error else float("inf")
                if not torch.equal(got, again[key]) and error == error:
                    worst[f"{key}, which differs from call to call,"] = float("inf")
        return worst


def examine(job: Job, device: torch.device | None = None) -> Report:
    """Run in a process of its own; raises what a compiler or a driver raises."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
    device = device or torch.device("cuda", torch.cuda.current_device())
    tolerance = TOLERANCE[job.precision]
    if not coverage.has(device, DTYPES[job.precision], job.algorithm):
        return Report(0, "", 0.0, [])
    with asked_for(job.precision):
        call = _Call(job, device)
        ran = call.ran()
        if ran != f"{job.backend}.{job.algorithm}":
            return Report(0, "", 0.0, [Wrong(f"the plan: {ran} ran", float("inf"))])
        every: list[dict[str, Tile] | None] = [None]
        if job.tiles:
            with tuning.trying({}) as trial:
                call.ours()
            every += rounds(trial.asked)
        wrong: list[Wrong] = []
        best = ("", 0.0)
        for tiles in every:
            found, lost = _tried(call, tiles)
            worst = max(found, key=lambda key: found[key]) if found else ""
            if not lost and found[worst] <= tolerance:
                best = max(best, (worst, found[worst]), key=lambda pair: pair[1])
                continue
            tiles = tiles or {}
            alone = [] if len(tiles) < 2 else _alone(call, tiles, tolerance)
            whole = Wrong(worst, found.get(worst, float("inf")), {k: spills.label(t) for k, t in tiles.items()}, lost)
            wrong += alone or [whole]
    return Report(len(every), *best, wrong)


def _tried(call: _Call, tiles: dict[str, Tile] | None) -> tuple[dict[str, float], str]:
    """Errors by result, or why the kernels could not run. A spoilt device ends the process: nothing after it counts."""
    try:
        return call.errors(tiles), ""
    except Exception as error:  # of many kinds: out of registers or shared memory, a compiler that gives up
        if "CUDA error" in str(error) or "illegal" in str(error):
            labels = ", ".join(f"{name}: {spills.label(tile)}" for name, tile in (tiles or {}).items())
            raise RuntimeError(f"{str(error).splitlines()[0]} with {labels or 'the chosen tiles'}") from error
        return {}, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _alone(call: _Call, tiles: dict[str, Tile], tolerance: float) -> list[Wrong]:
    """The launches of a round one by one, the others with their chosen tiles."""
    found = []
    for name, tile in tiles.items():
        errors, lost = _tried(call, {name: tile})
        worst = max(errors, key=lambda key: errors[key]) if errors else ""
        if lost or errors[worst] > tolerance:
            found.append(Wrong(worst, errors.get(worst, float("inf")), {name: spills.label(tile)}, lost))
    return found


def rounds(asked: dict[str, list[Tile]]) -> list[dict[str, Tile]]:
    """Every tile of every launch in some round."""
    most = max((len(tiles) for tiles in asked.values()), default=0)
    return [{name: tiles[i % len(tiles)] for name, tiles in asked.items()} for i in range(most)]
