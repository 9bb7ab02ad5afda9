"""Small calls of every Triton plan, forward and backward, for the checkers. Not a test itself.

The shapes leave tails everywhere (rows, columns and depth beside every tile, a rank that is no power of two) and give
every kernel several programs. Values are compared elsewhere; here only the accesses matter.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from palora_kernels.call import Call, Geometry, Needs
from palora_kernels.factors import Dense, Factors, LowRank
from palora_kernels.plans import ALGORITHMS
from palora_kernels.triton.conv import plans as conv
from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear import plans as linear
from palora_kernels.triton.linear import reduce

Case = Callable[[torch.dtype, str], list[Tensor]]
ALL = Needs(x=True, weight=True, bias=True, factors=True, lam=True)
FROZEN = Needs(x=True, weight=False, bias=False, factors=True, lam=False)


def _linear(
    algorithm: str,
    shared: bool,
    needs: Needs,
    r: int,
    bias_dims: int,
    rays: int = 3,
    n: int = 47,
    sizes: tuple[int, int] = (70, 53),
    dense: bool = False,
) -> Case:
    def case(dtype: torch.dtype, device: str) -> list[Tensor]:
        (O, K), T = sizes, 2
        x = torch.randn(n if shared else rays * n, K, device=device).to(dtype)
        weight = torch.randn(O, K, device=device).to(dtype)
        bias = torch.randn(*((O,) if bias_dims == 1 else (rays, O)), device=device).to(dtype)
        lam = torch.rand(rays, T, device=device)
        grad = torch.randn(rays * n, O, device=device).to(dtype)
        factors: Factors = Dense(torch.randn(T, O, K, device=device).to(dtype))
        if not dense:
            A, B = torch.randn(T, O, r, device=device).to(dtype), torch.randn(T, r, K, device=device).to(dtype)
            factors = LowRank(A, B, (O, K))
        call = Call(x, weight, bias, factors, lam, shared, bias_dims)
        forward, backward = linear.PLANS[algorithm]
        y, S = forward(call)
        return _flat(y, S, *backward(call, grad, S, needs))

    return case


def _conv(algorithm: str, form: str, shared: bool, groups: int, stride: int) -> Case:
    def case(dtype: torch.dtype, device: str) -> list[Tensor]:
        rays, n, C, O, T, r, k = 3, 2, 6 * groups, 10 * groups, 2, 3, 3
        shape = (O, C // groups, k, k)
        geometry = Geometry(stride=[stride, stride], padding=[1, 2], dilation=[1, 2], groups=groups)
        x = torch.randn(n if shared else rays * n, C, 9, 8, device=device).to(dtype)
        weight = torch.randn(shape, device=device).to(dtype)
        bias = torch.randn(O, device=device).to(dtype)
        lam = torch.rand(rays, T, device=device)
        sides = {"matricised": (O, C // groups * k * k, r), "loralib": (O // groups * k, C * k, r * k)}
        factors: Factors
        if form == "dense":
            factors = Dense(torch.randn(T, *shape, device=device).to(dtype))
        else:
            p, q, inner = sides[form]
            A = torch.randn(T, p, inner, device=device).to(dtype)
            factors = LowRank(A, torch.randn(T, inner, q, device=device).to(dtype), shape)
        call = Call(x, weight, bias, factors, lam, shared, 1, geometry, torch.channels_last)
        forward, backward = conv.PLANS[algorithm]
        y, S = forward(call)
        return _flat(y, *backward(call, torch.randn_like(y), S, ALL))

    return case


def _add_up(dtype: torch.dtype, device: str) -> list[Tensor]:
    """The sums over splits on their own: the shapes above are too short to be split widely."""
    outputs = [torch.empty(53, 70, device=device).to(dtype), None, torch.empty(1500, device=device).to(dtype)]
    partial = reduce.Partial.of(outputs, 3)
    assert partial.workspace is not None
    partial.workspace.normal_()
    partial.finish()
    return _flat(*outputs)


def _flat(*results: Tensor | list[Tensor] | None) -> list[Tensor]:
    flat: list[Tensor] = []
    for result in results:
        flat += [] if result is None else result if isinstance(result, list) else [result]
    return flat


def _all() -> dict[str, Case]:
    cases: dict[str, Case] = {"sums over splits": _add_up}
    for op in ("linear", "linear_delta"):
        for algorithm in ALGORITHMS[op]:
            for shared in (False, True):
                for label, needs, r, bias_dims in (("all", ALL, 3, 1), ("frozen base", FROZEN, 37, 2)):
                    where = f"{op} {algorithm} {'shared' if shared else 'stacked'} {label}"
                    cases[where] = _linear(algorithm, shared, needs, r, bias_dims, dense=op == "linear_delta")
    # One row a ray: a tile holds many rays. Many rows of few outputs: the sums are split.
    cases["linear factored per-row"] = _linear("factored", False, ALL, 3, 2, rays=80, n=1)
    cases["linear factored many rows"] = _linear("factored", False, ALL, 1, 1, rays=2, n=700)
    # Rows of whole 16 bytes, which tensor descriptors ask for.
    cases["linear persistent described"] = _linear("persistent", False, ALL, 3, 2, sizes=(72, 56))
    for algorithm in conv.PLANS:
        for form in ("matricised", "loralib", "dense"):
            if algorithm == "factored" and form != "matricised":
                continue
            for shared in (False, True):
                groups, stride = (1, 1) if shared or algorithm == "factored" else (2, 2)
                label = f"conv2d {algorithm} {form} {'shared' if shared else 'stacked'}"
                cases[label] = _conv(algorithm, form, shared, groups, stride)
    return cases


CASES = _all()


def run(name: str, dtype: torch.dtype, device: str) -> list[Tensor]:
    """The results of a case with the tiles for sm_90, whatever the device is or pretends to be."""
    torch.manual_seed(zlib.crc32(name.encode()))
    with configs.assume(configs.TARGETS["sm_90"]):
        return CASES[name](dtype, device)
