"""Is the table of plans right on this machine? `python -m bench.plans [--seconds 0.3] [--slack 0.1]`.

Times every algorithm of every op over a grid of shapes, forward and backward, float32, interleaved; prints where the
table's own choice is slower than the fastest by more than the slack, then the share of shapes where it is right.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

import palora_kernels as pk
from palora.bench.plan import plans_of
from palora.bench.timing import measure
from palora_kernels.plans import ALGORITHMS

Make = Callable[[], tuple[dict[str, Tensor], dict[str, Any]]]


def linear(M: int, n: int, K: int, O: int, T: int, r: int, shared: bool, dense: bool = False) -> Make:
    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        case = {
            "x": torch.randn(n if shared else M * n, K),
            "weight": torch.randn(O, K) / K**0.5,
            "bias": torch.randn(O),
            "lam": torch.rand(M, T),
        }
        if dense:
            case["D"] = torch.randn(T, O, K) / K**0.5
        else:
            case["A"], case["B"] = torch.randn(T, O, r), torch.randn(T, r, K) / K**0.5
        return case, {"shared": shared}

    return make


def conv(M: int, n: int, C: int, O: int, k: int, H: int, W: int, T: int, r: int, shared: bool, groups: int) -> Make:
    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        K = C // groups * k * k
        x = torch.randn(n if shared else M * n, C, H, W).contiguous(memory_format=torch.channels_last)
        case = {
            "x": x,
            "weight": (torch.randn(O, C // groups, k, k) / K**0.5).contiguous(memory_format=torch.channels_last),
            "bias": torch.randn(O),
            "A": torch.randn(T, O, r),
            "B": torch.randn(T, r, K) / K**0.5,
            "lam": torch.rand(M, T),
        }
        return case, {"shared": shared, "padding": k // 2, "groups": groups}

    return make


def grid() -> Iterator[tuple[str, str, Make]]:
    """(op, name of the shape, function that makes its arguments)."""
    sides = [(320, 50), (256, 256), (768, 768), (2048, 2048), (4096, 1024)]
    for (K, O), n, (T, r) in product(sides, (1, 16, 128, 1024), ((2, 1), (3, 8), (7, 4))):
        if n * K * O > 2**31:
            continue
        for shared in (False, True):
            yield "linear", f"M5 n{n} {K}×{O} T{T} r{r}{' shared' * shared}", linear(5, n, K, O, T, r, shared)
    for (K, O), n, shared in product(sides[:4], (1, 16, 128), (False, True)):
        make = linear(5, n, K, O, 2, 1, shared, dense=True)
        yield "linear_delta", f"M5 n{n} {K}×{O} T2{' shared' * shared}", make
    maps = [
        (1, 10, 5, 28, 28),
        (10, 20, 5, 12, 12),
        (64, 64, 3, 32, 32),
        (256, 256, 3, 8, 16),
        (128, 128, 3, 32, 64),
        (3, 64, 3, 64, 64),
    ]
    for (C, O, k, H, W), n, shared in product(maps, (1, 8, 64), (False, True)):
        if n * k * k * C * O * H * W > 2**33:
            continue
        for T, r in ((2, 1), (7, 4)):
            name = f"M5 n{n} {C}→{O} {k}×{k} {H}×{W} T{T} r{r}{' shared' * shared}"
            yield "conv2d", name, conv(5, n, C, O, k, H, W, T, r, shared, 1)
    yield "conv2d", "M5 n8 64→64 3×3 32×32 groups 4", conv(5, 8, 64, 64, 3, 32, 32, 2, 2, False, 4)
    yield "conv2d", "M64 n1 64→64 3×3 16×16", conv(64, 1, 64, 64, 3, 16, 16, 2, 2, False, 1)


def runner(op: str, case: dict[str, Tensor], options: dict[str, Any]) -> Callable[[], object]:
    fixed = ("lam", "x") if options["shared"] else ("lam",)  # what all rays share is a network's input
    leaves = {k: v.detach().requires_grad_(k not in fixed) for k, v in case.items()}
    inputs = [v for v in leaves.values() if v.requires_grad]
    function = getattr(pk, op)
    grad = torch.randn_like(function(**leaves, **options))
    return lambda: torch.autograd.grad(function(**leaves, **options), inputs, grad)


def compare(op: str, make: Make, seconds: float) -> tuple[str, dict[str, float]]:
    """The table's plan, and the least seconds of it and of every other plan that differs."""
    case, options = make()
    chosen = runner(op, case, options)
    columns: dict[str, Callable[[], object]] = {plans_of(chosen): chosen}
    backends = [name for name in ("eager", "native") if pk.backends()[name] == "available"]
    for backend, algorithm in product(backends, ALGORITHMS[op]):
        run = _forced(op, algorithm, runner(op, case, {**options, "backend": backend}))
        with pk.force_plan(**{op: algorithm}):
            name = plans_of(runner(op, case, {**options, "backend": backend}))
        columns.setdefault(name, run)
    times = measure(columns, seconds)
    return next(iter(columns)), {name: t.minimum for name, t in times.items()}


def _forced(op: str, algorithm: str, run: Callable[[], object]) -> Callable[[], object]:
    def forced() -> object:
        with pk.force_plan(**{op: algorithm}):
            return run()

    return forced


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.3, help="to spend on a shape")
    parser.add_argument("--slack", type=float, default=0.1, help="how much slower counts as wrong")
    parser.add_argument("--only", default="", help="only this op")
    parser.add_argument("--match", default="", help="only shapes whose name matches this regular expression")
    parser.add_argument("--all", action="store_true", help="print every shape, not only where the table is wrong")
    options = parser.parse_args()
    right = total = 0
    for op, name, make in grid():
        if (options.only and op != options.only) or not re.search(options.match, name):
            continue
        chosen, times = compare(op, make, options.seconds)
        best = min(times, key=lambda plan: times[plan])
        total += 1
        if times[chosen] <= (1 + options.slack) * times[best]:
            right += 1
        if options.all:
            ranked = sorted(times.items(), key=lambda item: item[1])
            listed = ", ".join(f"{plan} {seconds * 1e3:.2f}" for plan, seconds in ranked)
            print(f"{op:<13} {name:<44} {chosen:<17} of {listed} ms", flush=True)
        elif times[chosen] > (1 + options.slack) * times[best]:
            print(f"{op:<13} {name:<44} {chosen} {times[chosen] * 1e3:.2f} ms, but {best} {times[best] * 1e3:.2f} ms")
    print(f"the table is right on {right} of {total} shapes ({right / total:.1%}), slack {options.slack:.0%}")
    return 0 if right >= 0.95 * total else 1


if __name__ == "__main__":
    sys.exit(main())
