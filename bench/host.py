"""What the CPU does for a call of an op on a GPU: `python -m bench.host [--seconds 1] [--check]`, on any machine.

The driver is one that does nothing (`bench.idle_driver`), so a number is Python's and PyTorch's work alone, without
that of CUDA's own driver; tensors are on the CPU, whose allocator and autograd engine stand for those of the GPU (there
the backward runs in a thread of its own, which costs more). Every number is the least of many repeats in one process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import palora_kernels as pk
from palora_kernels import direct
from palora_kernels.triton.launching import configs, launch, replay

LAUNCH, LINEAR, CONV = 15.0, 200.0, 300.0  # the most microseconds that these may take


@dataclass(frozen=True)
class Row:
    name: str
    microseconds: float
    limit: float | None = None

    def line(self) -> str:
        judged = "" if self.limit is None else f"  limit {self.limit:5.0f}, of it {self.microseconds / self.limit:6.1%}"
        return f"  {self.name:<58} {self.microseconds:8.1f} us{judged}"


def least(run: Callable[[], object], seconds: float) -> float:
    """Microseconds of a call: the least of as many samples as fit the time; short calls are sampled ten at a time."""
    for _ in range(5):
        run()
    number = 10 if min(timeit.repeat(run, number=1, repeat=5)) < 3e-5 else 1
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, *timeit.repeat(run, number=number, repeat=20))
    return best / number * 1e6


def linear_case(dtype: torch.dtype) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    M, n, K, O, T, r = 5, 16, 64, 64, 2, 4
    case = {"x": torch.randn(M * n, K), "weight": torch.randn(O, K), "bias": torch.randn(O)}
    case |= {"A": torch.randn(T, O, r), "B": torch.randn(T, r, K)}
    return "linear", {**{k: v.to(dtype).requires_grad_() for k, v in case.items()}, "lam": torch.rand(M, T)}, {}


def conv_case(dtype: torch.dtype) -> tuple[str, dict[str, Tensor], dict[str, Any]]:
    M, n, C, O, T, r = 5, 4, 16, 16, 2, 4
    case = {"x": torch.randn(M * n, C, 8, 8), "weight": torch.randn(O, C, 3, 3), "bias": torch.randn(O)}
    case |= {"A": torch.randn(T, O, r), "B": torch.randn(T, r, C * 9)}
    for name in ("x", "weight"):
        case[name] = case[name].contiguous(memory_format=torch.channels_last)
    leaves = {k: v.to(dtype).requires_grad_() for k, v in case.items()}
    return "conv2d", {**leaves, "lam": torch.rand(M, T)}, {"padding": 1}


def called(made: tuple[str, dict[str, Tensor], dict[str, Any]]) -> Tensor:
    op, case, options = made
    y: Tensor = getattr(pk, op)(**case, **options, backend="triton")
    return y


def launch_rows(dtype: torch.dtype, seconds: float) -> Iterator[Row]:
    """The launch with the most arguments, that of a linear layer's forward, beside Triton's own way to do it."""
    direct.forget()
    made = linear_case(dtype)
    case = made[1]
    values = tuple(t.detach() for t in case.values())
    with launch.recording() as launches:
        called(made)
    (one,) = launches
    settings = {"num_warps": one.num_warps, "num_stages": one.num_stages, "enable_fp_fusion": launch.FP_FUSION}
    grid, ordered = (one.programs, 1, 1), [one.arguments[name] for name in one.kernel.arg_names]
    compiled = one.kernel[grid](**one.arguments, **settings)
    own = least(lambda: one.kernel[grid](**one.arguments, **settings), seconds)
    yield Row(f"Triton: kernel[grid](...) of {len(ordered)} arguments", own)
    yield Row("Triton: compiled[grid](...)", least(lambda: compiled[grid](*ordered), seconds))
    called(made)
    (call,) = direct._calls.values()
    program = call.forward
    assert program is not None
    key = replay.key(values)
    keyed = least(lambda: replay.key(values), seconds)
    found = least(lambda: {key: 1}[key], seconds)
    run = least(lambda: program(values), seconds)
    yield Row("ours: the key, from the layouts of six tensors", keyed)
    yield Row("ours: finding it", found)
    yield Row("ours: two outputs allocated, and the launch from memory", run)
    yield Row("ours beyond Triton's kernel[grid](...)", keyed + found + run - own, LAUNCH)
    x = values[0]
    chosen = least(lambda: configs.choose("linear_product", x, (80, 64, 64), side=16), seconds)
    yield Row("only in a first call: to choose a tile", chosen)


def op_rows(made: tuple[str, dict[str, Tensor], dict[str, Any]], limit: float, seconds: float) -> Iterator[Row]:
    name, case, _ = made
    inputs = [t for t in case.values() if t.requires_grad]
    grad = torch.ones_like(called(made))

    def forward() -> Tensor:
        return called(made)

    def both() -> object:
        return torch.autograd.grad(called(made), inputs, grad)

    with launch.recording() as launches:
        both()
    with torch.no_grad():
        yield Row(f"{name}: forward without gradients", least(forward, seconds))
    yield Row(f"{name}: forward and backward, {len(launches)} launches", least(both, seconds), limit)
    yield Row("  of it autograd: a function of as many tensors, all ready", least(nothing(inputs, grad), seconds))


def nothing(inputs: list[Tensor], grad: Tensor) -> Callable[[], object]:
    """Forward and backward of an autograd function that has everything ready."""
    ready = [torch.ones_like(t) for t in inputs]

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *tensors: Tensor) -> Tensor:
            ctx.save_for_backward(*tensors)
            return grad.detach()

        @staticmethod
        def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
            assert len(ctx.saved_tensors) == len(ready)
            return tuple(ready)

    return lambda: torch.autograd.grad(Nothing.apply(*inputs), inputs, grad)  # type: ignore[no-untyped-call]


def measured(seconds: float) -> Iterator[tuple[str, list[Row]]]:
    for dtype in (torch.bfloat16, torch.float32):
        yield f"launch, {dtype}", list(launch_rows(dtype, seconds))
        yield f"linear, {dtype}", list(op_rows(linear_case(dtype), LINEAR, seconds))
        with pk.force_plan(conv2d="merged"):
            yield f"conv2d merged, {dtype}", list(op_rows(conv_case(dtype), CONV, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="to spend on a row")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a row is over its limit")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET"):
        parser.error("TRITON_INTERPRET is set: its launches are not Triton's.")
    from bench.idle_driver import idle_gpu

    torch.set_num_threads(1)
    over = 0
    with idle_gpu():
        for title, rows in measured(options.seconds):
            print(title)
            for row in rows:
                print(row.line(), flush=True)
                over += row.limit is not None and row.microseconds > row.limit
    print(f"{over} over their limits")
    return 1 if options.check and over else 0


if __name__ == "__main__":
    sys.exit(main())
