"""Every plan of every backend that runs here, forward and all gradients, against the definition in float64.

The shapes leave tails beside every tile: odd sizes, one row a ray, ranks that are no power of two, groups, strides.
A plan that is not the one asked for counts as wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import palora_kernels as pk
from palora.bench.plan import plans_of
from palora.bench.problem import relative
from palora_kernels import implementations, plans

Tensors = dict[str, Tensor | None]
# float32 sums of some hundred products; 16-bit intermediate results of several roundings.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 8e-3}


@dataclass(frozen=True)
class Example:
    """One call: ``make`` gives its tensors in float64 on the CPU."""

    op: str
    label: str
    make: Callable[[], Tensors]
    options: dict[str, Any]
    only: Callable[[str], bool] = lambda algorithm: True
    tiles: bool = False  # to be run with every tile, not only with those that are chosen

    def takes(self, algorithm: str, dtype: torch.dtype) -> bool:
        """Whether the call offers a plan, on a device that has it."""
        return self.only(algorithm) and (algorithm != "persistent" or dtype.itemsize == 2)


@dataclass(frozen=True)
class Finding:
    """error: the largest of output and gradients, over the largest value of each. worst: which of them."""

    name: str
    worst: str
    error: float
    tolerance: float

    @property
    def correct(self) -> bool:
        return self.error <= self.tolerance


def _random(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) * scale


def _bias(kind: int, M: int, O: int) -> Tensor | None:
    return [None, _random(O), _random(M, O)][kind]


def _linear(M: int, n: int, K: int, O: int, T: int, r: int, shared: bool, bias: int, weight: bool, dense: bool) -> Any:
    def make() -> Tensors:
        case: Tensors = {
            "x": _random(n if shared else M * n, K),
            "weight": _random(O, K, scale=K**-0.5) if weight else None,
            "bias": _bias(bias, M, O),
            "lam": torch.rand(M, T, dtype=torch.float64),
        }
        if dense:
            return {**case, "D": _random(T, O, K, scale=K**-0.5)}
        return {**case, "A": _random(T, O, r), "B": _random(T, r, K, scale=K**-0.5)}

    base = "" if weight else ", no common part"
    label = f"M{M} n{n} {K}→{O} T{T} r{r}{', shared' if shared else ''}, bias {('none', 'one', 'per ray')[bias]}{base}"
    op = "linear_delta" if dense else "linear"
    described = weight and not shared and K % 8 == 0 and O % 8 == 0
    return Example(op, label, make, {"shared": shared}, lambda name: name != "persistent" or described)


def _conv(M: int, n: int, C: int, O: int, T: int, r: int, form: str, shared: bool, bias: int, **more: Any) -> Example:
    groups, k, size, nhwc = (more.pop(*pair) for pair in (("groups", 1), ("k", 3), ("size", (9, 7)), ("nhwc", True)))
    K = C // groups * k * k

    def make() -> Tensors:
        x = _random(n if shared else M * n, C, *size)
        weight = _random(O, C // groups, k, k, scale=K**-0.5)
        if nhwc:
            x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        case: Tensors = {"x": x, "weight": weight, "bias": _bias(bias, M, O)}
        case["lam"] = torch.rand(M, T, dtype=torch.float64)
        if form == "dense":
            return {**case, "D": _random(T, O, C // groups, k, k, scale=K**-0.5)}
        p, q, inner = (O, K, r) if form == "matricised" else (O // groups * k, C * k, r * k)
        return {**case, "A": _random(T, p, inner), "B": _random(T, inner, q, scale=K**-0.5)}

    op = "conv2d_delta" if form == "dense" else "conv2d"
    label = f"M{M} n{n} {C}→{O} {k}×{k} on {size[0]}×{size[1]} {form} T{T} r{r} bias {bias} groups {groups}"
    label += ", shared" if shared else ""
    label += f", {'NHWC' if nhwc else 'NCHW'}" + "".join(f", {name} {value}" for name, value in more.items())

    def only(algorithm: str) -> bool:
        return algorithm != "factored" or (form == "matricised" and groups == 1)

    return Example(op, label, make, {"shared": shared, "groups": groups, **more}, only)


def examples(small: bool = False) -> list[Example]:
    """All calls; ``small``: few and tiny ones, for Triton's interpreter."""
    if small:
        return [
            _linear(3, 5, 19, 18, 2, 3, False, 2, True, False),
            _linear(3, 5, 19, 18, 2, 3, True, 1, True, False),
            _linear(7, 1, 5, 6, 2, 1, False, 0, True, False),
            _linear(3, 5, 24, 16, 2, 3, False, 2, True, False),
            _linear(3, 5, 7, 9, 2, 1, False, 1, False, True),
            _linear(3, 5, 7, 9, 2, 1, True, 1, True, True),
            _conv(2, 2, 3, 5, 2, 1, "matricised", False, 1, size=(5, 4), padding=1),
            _conv(3, 1, 3, 5, 2, 1, "matricised", True, 2, size=(5, 4), padding=1),
            _conv(2, 1, 4, 6, 2, 1, "loralib", False, 1, size=(5, 4), groups=2, stride=2),
            _conv(2, 1, 3, 5, 2, 1, "dense", False, 1, size=(5, 4)),
        ]
    found = []
    for bias, shared in ((0, False), (1, False), (2, False), (1, True)):
        found += [
            _linear(5, 67, 129, 127, 2, 3, shared, bias, True, False),
            _linear(4, 33, 257, 65, 7, 11, shared, bias, True, False),  # R = 77: no room beside a tile
            _linear(3, 128, 256, 64, 2, 8, shared, bias, True, False),
            _linear(3, 19, 65, 31, 2, 2, shared, bias, False, False),
            _linear(5, 67, 65, 33, 2, 1, shared, bias, True, True),
            _linear(4, 31, 47, 129, 3, 1, shared, bias, False, True),
        ]
        for form in ("matricised", "loralib", "dense"):
            found += [
                _conv(3, 2, 3, 10, 2, 1, form, shared, bias, padding=1),
                _conv(5, 2, 20, 33, 2, 3, form, shared, bias, k=5, size=(12, 11)),
                _conv(3, 2, 64, 64, 3, 4, form, shared, bias, padding=1, size=(16, 17)),
                _conv(3, 2, 32, 48, 2, 2, form, shared, bias, groups=4, stride=2, padding=1),
                _conv(2, 3, 16, 24, 2, 2, form, shared, bias, dilation=2, nhwc=False),
            ]
    return [
        *found,
        _linear(97, 1, 130, 70, 3, 8, False, 2, True, False),
        _linear(1, 1, 1, 1, 1, 1, False, 1, True, False),
    ]


# M and n, or the images and the sides of their maps, with 1, 127, 128, 129 and 511 rows in all.
_ROWS = ((1, 1), (1, 127), (4, 32), (3, 43), (7, 73))
_MAPS = ((1, 1, (1, 1)), (1, 1, (127, 1)), (2, 4, (4, 4)), (3, 1, (1, 43)), (7, 1, (1, 73)))


def with_every_tile() -> list[Example]:
    """Few calls, because each is made with every tile of every launch: aligned rows and rows of odd length, the rows
    beside a tile's, shared inputs, and enough rows that sums are split."""
    found = []
    for M, n in _ROWS:
        found += [
            _linear(M, n, 256, 192, 2, 8, False, 1, True, False),
            _linear(M, n, 129, 127, 2, 3, True, 1, True, False),
            _linear(M, n, 128, 96, 2, 1, M > 1, 1, True, True),
        ]
    for M, n, size in _MAPS:
        found += [
            _conv(M, n, 64, 64, 2, 4, "matricised", False, 1, padding=1, size=size),
            _conv(M, n, 10, 20, 2, 1, "matricised", True, 1, padding=1, size=size),
            _conv(M, n, 16, 32, 2, 1, "dense", False, 1, padding=1, size=size),
        ]
    found += [
        _linear(2, 2500, 129, 63, 2, 8, False, 1, True, False),
        _linear(3, 700, 192, 256, 4, 12, False, 1, True, False),  # R = 48
        _linear(9, 300, 96, 200, 5, 16, True, 2, True, False),  # R = 80, more than 8 rays, a shared input
        _linear(33, 3, 72, 136, 9, 8, False, 2, True, False),  # R = 72, more than 8 tasks, more than 32 rays
        _linear(3, 33, 1056, 1000, 2, 8, False, 1, True, False),  # several tiles for each program of the pull-back
        _linear(3, 17, 1000, 720, 4, 8, False, 0, True, False),  # R = 32
        _linear(64, 1, 1056, 520, 3, 8, False, 2, True, False),  # few rows, and splits of many numbers
        _linear(29, 1, 1040, 264, 2, 8, False, 1, True, False),
        _linear(3, 1501, 136, 2056, 2, 3, False, 2, True, False),  # several tiles for each program that stays
        _conv(5, 8, 10, 20, 2, 1, "loralib", False, 1, k=5, size=(12, 12)),
        _conv(3, 9, 32, 48, 2, 2, "matricised", False, 1, padding=1, size=(17, 19)),
        _conv(3, 8, 1, 10, 2, 1, "matricised", True, 1, k=5, size=(28, 28)),
        _conv(4, 3, 32, 64, 2, 2, "loralib", False, 1, groups=4, stride=2, padding=1, size=(15, 14)),
        _conv(3, 1, 128, 256, 2, 4, "matricised", False, 1, padding=1, size=(9, 8)),  # as above
        _conv(3, 1, 128, 256, 2, 2, "loralib", False, 1, padding=1, size=(9, 8)),
    ]
    return [replace(call, tiles=True) for call in found]


@functools.cache
def calls() -> tuple[Example, ...]:
    """Everything that `palora bench --check` runs; the tensors are made when they are asked for."""
    return (*with_every_tile(), *examples())


def findings(
    device: torch.device, dtypes: list[torch.dtype], backends: list[str], calls: list[Example]
) -> Iterator[Finding]:
    """One for each call, dtype and plan."""
    for backend in backends:
        for call in calls:
            for algorithm in implementations.algorithms(call.op, backend, device.type):
                for dtype in dtypes:
                    if call.takes(algorithm, dtype) and has(device, dtype, algorithm):
                        yield _examined(call, device, dtype, backend, algorithm)


def has(device: torch.device, dtype: torch.dtype, algorithm: str) -> bool:
    """Whether the device has a plan at all."""
    like = torch.empty(0, dtype=dtype, device=device)
    return algorithm != "persistent" or plans.copies_tiles(like.device, like.dtype)


def _examined(call: Example, device: torch.device, dtype: torch.dtype, backend: str, algorithm: str) -> Finding:
    """Both sides start from the same rounded values, so that only the arithmetic differs."""
    generator_state = torch.get_rng_state()
    torch.manual_seed(0)
    exact = {k: v if v is None or k == "lam" else v.to(dtype).double() for k, v in call.make().items()}
    exact["lam"] = exact["lam"].float().double()  # type: ignore[union-attr]
    op = getattr(pk, call.op)
    with torch.no_grad():
        shape = op(**exact, **call.options, backend="reference").shape
    grad = torch.randn(shape).to(dtype)
    torch.set_rng_state(generator_state)
    ours = {k: v if v is None else v.to(device, torch.float32 if k == "lam" else dtype) for k, v in exact.items()}
    wanted = _results(op, exact, grad.double(), **call.options, backend="reference")
    name = f"{backend}.{algorithm} {call.op} {call.label}, {str(dtype).removeprefix('torch.')}"
    with pk.force_plan(**{call.op: algorithm}):
        ran = plans_of(lambda: op(**ours, **call.options, backend=backend))
        found = _results(op, ours, grad.to(device), **call.options, backend=backend)
    errors = {key: relative(found[key].cpu(), want) for key, want in wanted.items()}
    if ran != f"{backend}.{algorithm}":
        errors[f"the plan, {ran} ran"] = float("inf")
    worst = max(errors, key=lambda key: errors[key])
    return Finding(name, worst, errors[worst], TOLERANCE[dtype])


def _results(op: Callable[..., Tensor], case: Tensors, grad: Tensor, **options: Any) -> dict[str, Tensor]:
    leaves = {k: None if v is None else v.detach().requires_grad_() for k, v in case.items()}
    y = op(**leaves, **options)
    given = {k: v for k, v in leaves.items() if v is not None}
    return {"output": y.detach(), **dict(zip(given, torch.autograd.grad(y, list(given.values()), grad), strict=True))}
