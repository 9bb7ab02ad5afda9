"""Catalogue entries of the kernels in `palora_kernels.triton.linear.weights`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.call import Call
from palora_kernels.factors import LowRank
from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear.weights import LARGEST, Wanted, linear_weights, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """All four gradients, stacked and shared; and those of a frozen base weight."""

    def call(dtype: torch.dtype, shared: bool, weight: bool) -> None:
        M, n, K, O, T, r = 5, 512, 512, 1024, 2, 8
        rows = n if shared else M * n
        grad = torch.empty(M * n, O, dtype=dtype, device=META)
        factors = LowRank(grad.new_empty(T, O, r), grad.new_empty(T, r, K), (O, K))
        x, S, U0 = grad.new_empty(rows, K), grad.new_empty(rows, T * r), grad.new_empty(M * n, T * r)
        layer = Call(x, None, None, factors, torch.empty(M, T, device=META), shared, int(weight))
        run(layer, grad, grad[:rows], S, U0, Wanted(weight, True, weight))

    for label, shared, weight in (("stacked", False, True), ("shared", True, True), ("frozen base", False, False)):
        yield from variants_of(
            f"linear_weights {label} R16",
            linear_weights,
            lambda dtype, shared=shared, weight=weight: call(dtype, shared, weight),  # type: ignore[misc]
            lambda kind, target: configs.candidates(kind, target, largest=configs.largest(kind, target, LARGEST)),
            all_default=label == "stacked",
        )
