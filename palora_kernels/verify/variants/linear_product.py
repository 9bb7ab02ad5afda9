"""Catalogue entries of the kernels in `palora_kernels.triton.linear.product`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.operands import Adapters, in_side, out_side, padded
from palora_kernels.triton.linear.product import LARGEST_FUSED, _largest, linear_product, run, widest
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Forward and dX, fused and split, stacked and shared, with 16 columns of S; fused with as many as fit; the part of
    the adapters alone, as the plan ``library`` asks for it."""

    def call(dtype: torch.dtype, R: int, s_from: str, *, shared: bool = False, backward: bool = False) -> None:
        M, n, K, O, T = 5, 512, 512, 1024, 2
        R = min(R, widest(dtype)) if s_from == "x" else R
        x, weight = torch.empty(M * n, K, dtype=dtype, device=META), torch.empty(O, K, dtype=dtype, device=META)
        A = torch.empty(T, O, R // T, dtype=dtype, device=META)
        B = torch.empty(T, R // T, K, dtype=dtype, device=META)
        lam = torch.empty(M, T, device=META)
        s = x.new_empty(M * n, R)
        if backward:
            grad = x.new_empty(M * n, O)
            run(grad, weight.t(), None, Adapters(out_side(A), in_side(B), lam, n), s, x, s_from=s_from)
        else:
            y = x.new_empty(M * n, O)
            x = x[:n] if shared else x
            bias = x.new_empty(O)
            run(x, weight, bias, Adapters(in_side(B), out_side(A), lam, n), s, y, s_from=s_from, shared=shared)

    def adapters(dtype: torch.dtype) -> None:
        M, n, K, O, T, r = 5, 512, 512, 1024, 2, 8
        S = torch.empty(M * n, T * r, dtype=dtype, device=META)
        A, B, lam = S.new_empty(T, O, r), S.new_empty(T, r, K), torch.empty(M, T, device=META)
        y, bias = S.new_empty(M * n, O), S.new_empty(O)
        run(S, None, bias, Adapters(in_side(B), out_side(A), lam, n), S, y, s_from="memory")

    def tiles(R: int, one: bool) -> Callable[[str, configs.Target], list[configs.Tile]]:
        def listed_for(kind: str, target: configs.Target) -> list[configs.Tile]:
            BR = min(padded(R), widest(torch.float16 if kind == "half" else torch.float32))
            return configs.candidates(kind, target, side=BR, largest=_largest(BR, kind, target, one))

        return listed_for

    def listed(label: str, R: int, s_from: str, all_default: bool = False, **mode: bool) -> Iterator[Variant]:
        name, one = f"linear_product {label}", not mode.get("shared") and s_from != "rays"
        yield from variants_of(
            name, linear_product, lambda dtype: call(dtype, R, s_from, **mode), tiles(R, one), all_default=all_default
        )

    yield from listed("forward", 16, "x", all_default=True)
    yield from listed("forward wide", LARGEST_FUSED, "x")
    yield from listed("dx", 16, "x", backward=True)
    yield from listed("shared", 16, "x", shared=True)
    yield from listed("forward split", 128, "memory")
    yield from listed("shared split", 128, "memory", shared=True)
    yield from listed("dx shared", 16, "rays", backward=True)
    yield from variants_of("linear_product adapters", linear_product, adapters, tiles(16, True), all_default=False)
