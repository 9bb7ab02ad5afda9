"""What is timed on a device: ops in three parts, and training steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from palora.bench import models, ops
from palora.bench.case import Run
from palora.bench.device.bound import Bound, stages
from palora.bench.models import Steps
from palora.bench.problem import PARTS, Problem
from palora.layers import PaLoRAConv2d, PaLoRALinear

Compiler = Callable[[Any], Any]
Prepare = Callable[[], Run]
REQUESTS = (64, 1, 4096, 4096, 3, 8)  # M, n, K, O, T, r: a preference for each row


@dataclass
class Entry:
    """A row to be: ``columns`` are prepared and timed; ``check`` gives the error and what it may be."""

    group: str
    name: str
    ours: Run
    check: Callable[[], tuple[float, float]]
    columns: Mapping[str, Prepare]
    least: Bound


Maker = Callable[[], list[Entry]]


def compiled(function: Any) -> Any:
    """torch.compile for one shape. Buffers are not donated, so that a backward can be run again and again."""
    import torch._functorch.config as config

    compiled = torch.compile(function, dynamic=False)

    def call(*args: Any, **kwargs: Any) -> Any:
        with config.patch(donated_buffer=False):
            return compiled(*args, **kwargs)

    return call


def of_problem(group: str, problem: Problem, compiler: Compiler) -> list[Entry]:
    """Forward, backward, and both."""
    case = problem.case
    factors = [case[name] for name in ("A", "B", "D") if name in case]
    with torch.no_grad():
        y = problem.ours(**case)
    least = stages(case["x"], y, case["weight"], case.get("bias"), factors, case["lam"], problem.shared)
    theirs = compiler(problem.theirs)
    error: list[float] = []

    def check() -> tuple[float, float]:
        if not error:  # once for the three parts
            error.append(problem.error())
        return error[0], problem.tolerance

    functions = {"ours": problem.ours, "authors": problem.theirs, "compiled": theirs, "floor": problem.plain}
    return [
        Entry(
            f"{group}, {part}",
            problem.name,
            lambda: problem.ours(**case),
            check,
            {name: problem.prepared(op, part) for name, op in functions.items()},
            least[part],
        )
        for part in PARTS
    ]


def of_steps(named: models.Named, compiler: Compiler) -> list[Entry]:
    name, steps, tolerance = named
    looped = compiler(steps.looped)

    def check() -> tuple[float, float]:
        error, loop = steps.errors()
        # In 16 bits the loop itself is this far from float64; ours may be twice as far.
        return error, tolerance if steps.precision is None else max(tolerance, 2 * loop)

    columns: dict[str, Prepare] = {
        "ours": lambda: steps.ours,
        "authors": lambda: steps.theirs,
        "compiled": lambda: lambda: steps.theirs(looped),
        "floor": lambda: steps.floor,
    }
    return [Entry("training step", name, steps.ours, check, columns, of_layers(steps))]


def of_layers(steps: Steps) -> Bound:
    """The sum over the adapted layers, forward and backward, and the optimiser's pass over its states."""
    total: list[Bound] = []
    layers = [m for m in steps.adapted.modules() if isinstance(m, (PaLoRALinear, PaLoRAConv2d))]
    # Taken before the model runs: nothing but the layer itself may read its weight in a stacked pass.
    own: dict[nn.Module, Any] = {layer: (layer.weight, layer.bias, [layer.lora_A, layer.lora_B]) for layer in layers}

    def count(layer: nn.Module, inputs: tuple[Any, ...], y: torch.Tensor) -> None:
        weight, bias, factors = own[layer]
        x, rays = inputs[0], len(steps.rays[: steps.chunk])
        shared = x.shape[0] * rays == y.shape[0]
        lam = steps.rays[: steps.chunk]
        found = stages(x, y, weight, bias, factors, lam, shared, input_gradient=x.requires_grad)
        total.append(found["forward + backward"])

    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        steps.ours_backward()
    finally:
        for handle in handles:
            handle.remove()
        steps.adapted.zero_grad(set_to_none=True)
    # Adam reads a parameter, its gradient and two states, and writes all but the gradient.
    parameters = sum(p.numel() * p.element_size() for p in steps.adapted.parameters() if p.requires_grad)
    return sum(total, Bound(7.0 * parameters if steps.optimisers else 0.0))


def all_rows(device: torch.device, dtype: torch.dtype, compiler: Compiler) -> Iterator[tuple[str, Maker]]:
    """(group without the part, what makes its entries); convolutions in NHWC, the format that GPUs prefer."""
    for shape in (*ops.LINEAR, REQUESTS):
        yield "linear", lambda s=shape: of_problem("linear", ops.linear(s, device, dtype), compiler)  # type: ignore[misc]
    for conv in ops.CONV:
        yield "conv2d", lambda s=conv: of_problem("conv2d", ops.conv(s, device, dtype, True), compiler)  # type: ignore[misc]
    yield "delta", lambda: of_problem("delta", ops.delta(ops.DELTA, device, dtype), compiler)
    precision = None if dtype == torch.float32 else dtype
    steps: list[Callable[[], models.Named]] = [
        lambda: models.lenet_steps(device, True, precision=precision),
        lambda: models.lenet_steps(device, True, heads_only=True, precision=precision),
        lambda: models.mlp_steps(device, precision=precision),
        lambda: models.segnet_steps(device, chunk=None, optimise=True, precision=precision),
    ]
    for make in steps:
        yield "training step", lambda m=make: of_steps(m(), compiler)  # type: ignore[misc]
