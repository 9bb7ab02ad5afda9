"""Rows for the ops: shapes of the papers' networks and of larger layers, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import palora_kernels as pk
from palora.bench import authors
from palora.bench.case import Case, Maker
from palora.bench.problem import TOLERANCE, Problem

LINEAR = [  # M, n, K, O, T, r
    (5, 256, 320, 50, 2, 1),
    (5, 256, 256, 256, 2, 1),
    (5, 512, 256, 256, 7, 4),
    (5, 32, 768, 768, 2, 8),
    (5, 8, 4096, 4096, 2, 8),
    (5, 64, 2048, 2048, 2, 8),
    (11, 1, 4096, 4096, 3, 8),
    (5, 2048, 512, 512, 2, 4),
]


@dataclass(frozen=True)
class ConvShape:
    name: str
    n: int
    C: int
    O: int
    k: int
    H: int
    W: int
    padding: int = 1
    stride: int = 1
    groups: int = 1
    shared: bool = False
    M: int = 5
    T: int = 2
    r: int = 1


CONV = [
    ConvShape("lenet 1→10 5×5, shared", 256, 1, 10, 5, 28, 28, padding=0, shared=True),
    ConvShape("lenet 10→20 5×5", 256, 10, 20, 5, 12, 12, padding=0),
    ConvShape("64→64 3×3 32×32", 8, 64, 64, 3, 32, 32, r=4),
    ConvShape("64→64 3×3 64×128", 2, 64, 64, 3, 64, 128, r=4),
    ConvShape("256→256 3×3 8×16", 2, 256, 256, 3, 8, 16, r=4),
    ConvShape("64→64 3×3 stride 2", 8, 64, 64, 3, 32, 32, stride=2, r=4),
    ConvShape("64→64 3×3 groups 4", 8, 64, 64, 3, 32, 32, groups=4, r=4),
    ConvShape("64→64 3×3 32×32, shared", 8, 64, 64, 3, 32, 32, shared=True, r=4),
]

DELTA = (5, 512, 512, 512, 2)  # M, n, K, O, T


def linear(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Problem:
    """The factored op against the loop, merging per ray, and the bare product of the stacked rows."""
    M, n, K, O, T, r = shape
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    case = {
        "x": torch.randn(M * n, K, **make),
        "weight": torch.randn(O, K, **make) / K**0.5,
        "bias": torch.randn(O, **make),
        "A": torch.randn(T, O, r, **make),
        "B": torch.randn(T, r, K, **make) / K**0.5,
        "lam": torch.rand(M, T, device=device),
    }
    return Problem(
        f"linear {shape}",
        case,
        pk.linear,
        lambda **c: authors.linear(**c, shared=False),
        lambda x, weight: x @ weight.t(),
        {"x": case["x"], "weight": case["weight"]},
        lambda **c: pk.linear(**c, backend="reference"),
        lambda **c: pk.linear(**c, backend="eager"),
        False,
        {"merging": lambda **c: authors.merged_linear(**c, shared=False)},
    )


def conv(shape: ConvShape, device: torch.device, dtype: torch.dtype, channels_last: bool) -> Problem:
    """The adapted convolution against the loop over merged kernels, and one plain convolution of all rows."""
    s = shape
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    K = s.C // s.groups * s.k**2
    x = torch.randn(s.n if s.shared else s.M * s.n, s.C, s.H, s.W, **make).contiguous(memory_format=layout)
    weight = torch.randn(s.O, s.C // s.groups, s.k, s.k, **make).contiguous(memory_format=layout) / K**0.5
    case = {
        "x": x,
        "weight": weight,
        "bias": torch.randn(s.O, **make),
        "A": torch.randn(s.T, s.O, s.r, **make),
        "B": torch.randn(s.T, s.r, K, **make) / K**0.5,
        "lam": torch.rand(s.M, s.T, device=device),
    }
    options: dict[str, Any] = {"stride": s.stride, "padding": s.padding, "groups": s.groups}
    all_rows = torch.cat([x] * s.M) if s.shared else x
    return Problem(
        f"conv2d {s.name}, {'NHWC' if channels_last else 'NCHW'}",
        case,
        lambda **c: pk.conv2d(**c, **options, shared=s.shared),
        lambda **c: authors.conv2d(**c, **options, shared=s.shared),
        lambda x, weight: F.conv2d(x, weight, **options),
        {"x": all_rows, "weight": weight},
        lambda **c: pk.conv2d(**c, **options, shared=s.shared, backend="reference"),
        lambda **c: pk.conv2d(**c, **options, shared=s.shared, backend="eager"),
        s.shared,
    )


def delta(shape: tuple[int, int, int, int, int], device: torch.device, dtype: torch.dtype) -> Problem:
    """Arbitrary deltas on a shared input, as an ensemble's first layer has them."""
    M, n, K, O, T = shape
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    case = {
        "x": torch.randn(n, K, **make),
        "weight": torch.randn(O, K, **make) / K**0.5,
        "bias": torch.randn(O, **make),
        "D": torch.randn(T, O, K, **make) / K**0.5,
        "lam": torch.rand(M, T, device=device),
    }

    def loop(x: Tensor, weight: Tensor, bias: Tensor, D: Tensor, lam: Tensor) -> Tensor:
        merged = [weight + sum(lam[m, t] * D[t] for t in range(T)) for m in range(M)]
        return torch.cat([F.linear(x, w, bias) for w in merged])

    return Problem(
        f"linear_delta {shape}, shared",
        case,
        lambda **c: pk.linear_delta(**c, shared=True),
        loop,
        lambda x, weight: x @ weight.t(),
        {"x": torch.cat([case["x"]] * M), "weight": case["weight"]},
        lambda **c: pk.linear_delta(**c, shared=True, backend="reference"),
        lambda **c: pk.linear_delta(**c, shared=True, backend="eager"),
        True,
    )


def merging(shape: tuple[int, int, int, int, int], device: torch.device, dtype: torch.dtype) -> Case:
    """M merged weights in one go; the floor is writing them."""
    M, K, O, T, r = shape
    make: dict[str, Any] = {"device": device, "dtype": dtype}
    W, A, B = torch.randn(O, K, **make), torch.randn(T, O, r, **make), torch.randn(T, r, K, **make)
    lam = torch.rand(M, T, device=device)

    def loop() -> object:
        return torch.stack([W + sum(lam[m, t] * (A[t] @ B[t]) for t in range(T)) for m in range(M)])

    def error() -> float:
        want = pk.merge(W.double(), A.double(), B.double(), lam.double())
        return float((pk.merge(W, A, B, lam).double() - want).abs().max() / want.abs().max())

    return Case(
        f"merge {shape}", lambda: pk.merge(W, A, B, lam), loop, lambda: W.repeat(M, 1, 1), error, TOLERANCE[dtype]
    )


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Maker]]:
    for shape in LINEAR:
        for backward in (False, True):
            group = "linear, forward + backward" if backward else "linear, forward"
            yield group, lambda s=shape, b=backward: linear(s, device, dtype).timed(b)  # type: ignore[misc]
    for conv_shape in CONV:
        for nhwc in (False, True):
            yield (
                "conv2d, forward + backward",
                lambda s=conv_shape, c=nhwc: conv(s, device, dtype, c).timed(True),  # type: ignore[misc]
            )
    yield "deltas and merging", lambda: delta(DELTA, device, dtype).timed(True)
    yield "deltas and merging", lambda: merging((5, 1024, 1024, 2, 8), device, dtype)
