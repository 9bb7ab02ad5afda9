"""Bytes and flops of the Triton plans against the least that the arithmetic allows. It needs no GPU.

    python -m palora_kernels.verify.roofline [--device sm_90] [--rays 5]

A plan is recorded on tensors of the meta device (`launch.recording`), so grids and tiles are those that a launch takes;
every launch is then counted by `counting.cost`. Launches follow each other, so a plan takes

    sum over launches of max(bytes, flops / ridge)        ridge: the machine's flops per byte

in units of bytes. The bound has three stages, each of which may read its inputs and write its results once and has to
do the products that the algebra asks for, at the true sizes and without padding. It is a bound for any plan:

    forward   x, W, A, B, lam, b -> y, S           2 P K O + 2 P R (K + O)
    input     G, W, A, B, lam    -> dX, U0         2 P K O + 2 P R (K + O)
    weights   G, x, S, U0, lam   -> dW, dA, dB, db, dlam

P rows, K products behind a value, O outputs, R columns of the factors; a convolution has K = C/groups*kh*kw, P = its
output positions, and neither S nor U0. Rows that all rays share are read once, and cost min(M, T+1) base products.
The forward and the input stage of a convolution do not pay for its factors: they vanish in the kernel of the ray.

A plan has to do more, and the bound of the plan says what. Its additional stages, N numbers in a kernel:

    merged            forward, and again for dX: M kernels written, 2 M N R flops, and read by the product's stage;
                      backward: M float32 gradients, written by the product's stage and read, 4 M N R flops
    a shared input    backward: Sum_m G_m and U0 from one reading of G; the products' stage reads the sum too

Where the table leaves a convolution with merged kernels to cuDNN (``library``), the plan ``merged`` is counted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Flops per byte in bfloat16: peak of the tensor cores over the bandwidth of the memory, from the vendors' data sheets.
RIDGE = {"sm_80": 153.0, "sm_90": 295.0}


@dataclass(frozen=True)
class Layer:
    """One layer as a network calls it. ``shared``: the first, whose input is the same for all rays and needs no
    gradient. Linear: K -> O; convolution: input (C, H, W)."""

    network: str
    kind: str  # "linear" or "conv"
    n: int  # rows, or images, of one ray
    inputs: int
    outputs: int
    shared: bool
    rank: int
    tasks: int
    side: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0

    @property
    def name(self) -> str:
        if self.kind == "linear":
            return f"linear {self.n}x{self.inputs} -> {self.outputs}"
        size = "x".join(str(s) for s in (self.n, self.inputs, *self.side))
        return f"conv {size} -> {self.outputs}, {self.kernel[0]}x{self.kernel[1]}/{self.stride}"


@dataclass(frozen=True)
class Row:
    """Of one layer: the plan, and its cost over that of the bound, forward and backward; 1 is the bound itself."""

    layer: Layer
    plan: str
    launches: int
    bytes: float
    flops: float
    bound_bytes: float
    bound_flops: float
    forward: float
    backward: float
    of_plan: tuple[float, float]  # the same over the bound of the plan


def examine(layer: Layer, rays: int, ridge: float, target: str = "sm_90", algorithm: str | None = None) -> Row:
    """Count ``algorithm``; by default `merged` for a convolution, else what the table takes. bfloat16, all
    gradients."""
    from palora_kernels.triton.launching import configs

    meta = torch.device("meta")
    with configs.assume(configs.TARGETS[target]):
        call = _linear if layer.kind == "linear" else _conv
        called = call(layer, rays, meta, algorithm)
        costs = [_counted(part) for part in (called.forward, called.backward)]
    times = [sum(max(c.bytes, c.flops / ridge) for c in part) for part in costs]

    def least(stages: Sequence[Stage]) -> float:
        return sum(max(b, f / ridge) for b, f in stages)

    stages = called.stages
    any_plan = [least(part) for part in (stages[:1], stages[1:])]
    of_plan = [least(part) for part in called.of_plan]
    every = [c for part in costs for c in part]
    return Row(
        layer,
        called.plan,
        len(every),
        sum(c.bytes for c in every),
        sum(c.flops for c in every),
        sum(b for b, _ in stages),
        sum(f for _, f in stages),
        times[0] / any_plan[0],
        times[1] / any_plan[1],
        (times[0] / of_plan[0], times[1] / of_plan[1]),
    )


def _counted(part: Callable[[], Any]) -> list[Any]:
    from palora_kernels.triton.launching.launch import recording
    from palora_kernels.verify.counting import Library, cost

    library = Library()
    with library, recording() as launches:
        part()
    return [cost(launch) for launch in launches] + library.costs


Stage = tuple[float, float]  # bytes, flops


class Called(NamedTuple):
    """A layer's two calls, what any plan has to do for them, and what this one has to, forward and backward."""

    plan: str
    forward: Callable[[], Any]
    backward: Callable[[], Any]
    stages: list[Stage]
    of_plan: tuple[list[Stage], list[Stage]]


def _linear(layer: Layer, rays: int, device: torch.device, algorithm: str | None) -> Called:
    from palora_kernels import gpu_plans
    from palora_kernels.call import Call, Needs
    from palora_kernels.factors import LowRank
    from palora_kernels.sizes import Sizes
    from palora_kernels.triton.linear.plans import PLANS

    n, K, O, T, r = layer.n, layer.inputs, layer.outputs, layer.tasks, layer.rank
    R, shared = T * r, layer.shared
    name = algorithm or gpu_plans.linear(Sizes("triton", rays, n, K, O, R, T + 1, shared), exact=False)
    make = _maker(device)
    rows = n if shared else rays * n
    x, W, b, A, B, G = make(rows, K), make(O, K), make(O), make(T, O, r), make(T, r, K), make(rays * n, O)
    lam = make(rays, T, dtype=torch.float32)
    forward, backward = PLANS[name]
    call = Call(x, W, b, LowRank(A, B, (O, K)), lam, shared, 1)
    needs = Needs(x=not shared, weight=True, bias=True, factors=True, lam=True)
    S = make(rows, R)
    product, narrow = 2.0 * rows * K * O, 2.0 * rows * R * (K + O)
    if shared:
        narrow = 2.0 * n * R * K + 2.0 * rays * n * R * O
    factors = _bytes(A, B, lam)
    U = _bytes(make(rays * n, R))
    stages = [(_bytes(x, W, b, G, S) + factors, product + narrow)]
    if not shared:
        stages.append((_bytes(G, W, x) + U + factors, product + narrow))
    stages.append((_bytes(G, x, S, W, b, A, B, lam) + U + _bytes(lam), product + narrow))
    of_plan = stages[:1], stages[1:]
    if shared:
        summed = float(n * O * G.element_size())
        of_plan = stages[:1], [(_bytes(G) + U + summed, 2.0 * rays * n * R * O), _plus(stages[1], summed)]
    if name == "merged":
        of_plan = _merging(stages, W, A, B, lam, R)
    return Called(
        name,
        lambda: forward(call),
        lambda: backward(call, G, S, needs),
        stages,
        of_plan,
    )


def _plus(stage: Stage, more: float) -> Stage:
    return stage[0] + more, stage[1]


def _merging(
    stages: list[Stage], weight: Tensor, A: Tensor, B: Tensor, lam: Tensor, R: int
) -> tuple[list[Stage], list[Stage]]:
    """The stages of a merged plan, forward and backward: `stages`, with the kernels of the rays between them."""
    numbers = float(lam.shape[0] * weight.numel())
    kernels, parameters = numbers * weight.element_size(), _bytes(weight, A, B, lam)
    merging = (parameters + kernels, 2 * numbers * R)
    pulling = (parameters + 4 * numbers, 4 * numbers * R)
    *products, weights = [_plus(stage, kernels - parameters) for stage in stages[:-1]] + [
        _plus(stages[-1], 4 * numbers)
    ]
    backward = [part for product in products[1:] for part in (merging, product)]
    return [merging, products[0]], [*backward, weights, pulling]


def _conv(layer: Layer, rays: int, device: torch.device, algorithm: str | None) -> Called:
    from palora_kernels.call import Call, Geometry, Needs
    from palora_kernels.factors import LowRank
    from palora_kernels.triton.conv.plans import PLANS

    (kh, kw), (H, Wd), C, O, T, shared = (
        layer.kernel,
        layer.side,
        layer.inputs,
        layer.outputs,
        layer.tasks,
        layer.shared,
    )
    geometry = Geometry([layer.stride] * 2, [layer.padding] * 2, [1, 1], 1)
    make = _maker(device)
    images = layer.n if shared else rays * layer.n
    x = make(images, C, H, Wd).to(memory_format=torch.channels_last)
    weight, b, lam = make(O, C, kh, kw), make(O), make(rays, T, dtype=torch.float32)
    A, B = make(T, kh * O, layer.rank * kh), make(T, layer.rank * kh, kh * C)  # the loralib form
    factors = LowRank(A, B, weight.shape)
    out_h, out_w = geometry.output_size(x, (kh, kw))
    K, positions = C * kh * kw, out_h * out_w
    # The other plans leave the convolution to cuDNN; whether its kernels move the least is not ours to say.
    name = algorithm or "merged"
    y = make(rays * layer.n, O, out_h, out_w).to(memory_format=torch.channels_last)
    forward, backward = PLANS[name]
    call = Call(x, weight, b, factors, lam, shared, 1, geometry, torch.channels_last)
    needs = Needs(x=not shared, weight=True, bias=True, factors=True, lam=True)
    product = (
        2.0 * min(rays, T + 1) * layer.n * positions * K * O if shared else 2.0 * rays * layer.n * positions * K * O
    )
    parameters = _bytes(weight, A, B, lam)
    stages = [(_bytes(x, b, y) + parameters, product)]
    if not shared:
        stages.append((_bytes(y, x) + parameters, product))
    stages.append((_bytes(y, x, b) + 2 * parameters - _bytes(weight), product))
    of_plan = stages[:1], stages[1:]
    if name == "merged":
        of_plan = _merging(stages, weight, A, B, lam, T * layer.rank * kh)
    return Called(
        name,
        lambda: forward(call),
        lambda: backward(call, y, None, needs),
        stages,
        of_plan,
    )


def _maker(device: torch.device) -> Callable[..., Tensor]:
    def make(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    return make


def _bytes(*tensors: Tensor) -> float:
    return float(sum(t.numel() * t.element_size() for t in tensors))


def lines(rows: list[Row]) -> list[str]:
    head = f"{'network':12} {'layer':38} {'plan':9} {'launches':>8} {'MB':>8} {'bound':>8} {'GFLOP':>8} {'bound':>8}"
    text = [head + f" {'forward':>8} {'backward':>8} {'of plan':>8} {'backward':>8}"]
    for row in rows:
        start = f"{row.layer.network:12} {row.layer.name:38} {row.plan:9} {row.launches:8}"
        sizes = (
            f"{row.bytes / 1e6:8.1f} {row.bound_bytes / 1e6:8.1f} {row.flops / 1e9:8.2f} {row.bound_flops / 1e9:8.2f}"
        )
        ratios = (row.forward, row.backward, *row.of_plan)
        text.append(f"{start} {sizes} " + " ".join(f"{ratio:8.2f}" for ratio in ratios))
    return [*text, "max(bytes, flops/ridge) summed over launches, over that of the bound, then over that of the plan"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m palora_kernels.verify.roofline", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--device", choices=list(RIDGE), default="sm_90")
    parser.add_argument("--rays", type=int, default=5)
    parser.add_argument("--only", default="", help="networks whose name contains this")
    options = parser.parse_args(arguments)
    from palora_kernels.verify.networks import LAYERS

    chosen = [layer for layer in LAYERS if options.only in layer.network]
    rows = [examine(layer, options.rays, RIDGE[options.device], options.device) for layer in chosen]
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") != "1":  # read when the kernels are decorated, so before they are imported
        os.environ["TRITON_INTERPRET"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "palora_kernels.verify.roofline", *sys.argv[1:]])
    main()
