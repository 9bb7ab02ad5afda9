"""Before anything is timed: every column of every item runs once, in parallel processes, and is compared with float64.

So the kernels lie compiled in the caches of Triton and of torch.compile when the one process that measures asks for
them; and what is wrong, hangs or spoils its process is known and left out.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import palora_kernels as pk
from palora.bench.device import tune, values
from palora.bench.device.items import STEPS, Item, problem, steps
from palora.bench.device.rows import compiled
from palora.bench.models import Steps
from palora.bench.plan import plans_of
from palora.bench.problem import PARTS, Op, Problem
from palora.layers import PaLoRAConv2d, PaLoRALinear
from palora_kernels import implementations
from palora_kernels.triton.launching import tuning

SHARES = {"resnet18": 4, "segnet": 4}  # networks of many shapes: so many processes compile for the layers of one


@dataclass(frozen=True)
class Column:
    """A column of an item: "triton." and a plan, "eager", "compiled", "step", or "layers" and a share of them."""

    item: Item
    column: str

    @property
    def name(self) -> str:
        return f"{self.item.name}: {self.column}"

    @property
    def order(self) -> int:
        """When it runs: what others wait for first, a network after its layers are compiled."""
        return 0 if self.only_compiles else 2 if self.column == "step" else 1

    @property
    def only_compiles(self) -> bool:
        return self.column.startswith("layers ")

    @property
    def plan(self) -> str | None:
        return self.column.removeprefix("triton.") if self.column.startswith("triton.") else None


def columns(item: Item, device: str = "cuda") -> list[Column]:
    """What has to be prepared for an item."""
    if item.what in ("rates", "plain"):
        return []
    if item.what == "compiled":
        return [Column(item, "compiled")]
    if item.what == "step":
        shares = range(SHARES.get(item.subject, 0))
        return [*(Column(item, f"layers {share}") for share in shares), Column(item, "step")]
    found = [f"triton.{name}" for name in implementations.algorithms(item.subject, "triton", device)]
    return [Column(item, name) for name in (found if item.what == "tune" else ["eager", *found])]


def forced(item: Item, found: Problem, plan: str) -> Op:
    """Ours with a plan that is named."""

    def call(**case: Any) -> torch.Tensor:
        with pk.force_plan(**{item.subject: plan}):
            return found.ours(**case)

    return call


@contextmanager
def settings(item: Item, benchmark: bool) -> Iterator[None]:
    """float32 products as the item wants them, convolutions as exact as everything else in the row."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = benchmark, item.precision == "tf32"
    try:
        with values.asked_for(item.precision):
            yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


def prepare(job: Column, device: torch.device | None = None) -> dict[str, float]:
    """Errors by name: "error" of an op's column, empty where the call does not offer the plan or only tiles were
    compiled; "ours" and "loop" of a step. Raises what a driver or a compiler raises."""
    device = device or torch.device("cuda", torch.cuda.current_device())
    torch.set_num_threads(1)
    try:
        with settings(job.item, benchmark=False):
            return _prepared(job, device)
    finally:
        release()


def release() -> None:
    """Memory that nothing needs back to the device, which other processes use too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _prepared(job: Column, device: torch.device) -> dict[str, float]:
    item = job.item
    if item.subject in STEPS:
        return _network(job, device)
    found = problem(item, device)
    if job.column == "eager":
        return {"error": found.error(found.eager)}
    if job.column == "compiled":
        function = compiled(found.theirs)
        found.prepared(function, PARTS[0])()()
        return {"error": found.error(function)}
    assert job.plan is not None
    function = forced(item, found, job.plan)
    if plans_of(lambda: function(**found.case)) != job.column:
        return {}
    if item.what == "row":
        return {"error": found.error(function)}
    _tiles(found, function)
    return {}


def _network(job: Column, device: torch.device) -> dict[str, float]:
    _, found, _ = steps(job.item, device)
    if job.column == "compiled":
        found.theirs(compiled(found.looped))
        return {}
    if job.only_compiles:
        _layers(found, int(job.column.split()[1]), SHARES[job.item.subject])
        return {}
    return dict(zip(("ours", "loop"), found.errors(), strict=True))


def _layers(found: Steps, share: int, shares: int) -> None:
    """Our forward and backward pass with Triton in a share of the adapted layers, plain PyTorch in the others."""
    before = os.environ.get("PALORA_BACKEND")

    def choose(index: int) -> None:
        os.environ["PALORA_BACKEND"] = "triton" if index % shares == share else "eager"

    layers = [m for m in found.adapted.modules() if isinstance(m, (PaLoRALinear, PaLoRAConv2d))]
    handles = [
        layer.register_forward_pre_hook(lambda *_, index=index: choose(index))  # type: ignore[misc]
        for index, layer in enumerate(layers)
    ]
    try:
        found.ours_backward()
    finally:
        for handle in handles:
            handle.remove()
        os.environ.pop("PALORA_BACKEND")
        if before is not None:
            os.environ["PALORA_BACKEND"] = before


def _tiles(found: Problem, function: Op) -> None:
    """Every tile that `tune` will try, once; one that cannot run is its to report."""
    run = found.prepared(function, PARTS[2])()
    with tuning.trying({}) as trial:
        run()
    near = {name: tune.near(trial, name, tune.SHORT.near) for name in trial.asked}
    for tiles in values.rounds(near):
        try:
            with tuning.trying(tiles):
                run()
        except Exception as error:  # out of registers or shared memory, a compilation that failed
            if "CUDA error" in str(error) or "illegal" in str(error):
                raise
