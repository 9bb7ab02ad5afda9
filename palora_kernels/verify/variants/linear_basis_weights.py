"""Catalogue entries of the kernels in `palora_kernels.triton.linear.basis_weights`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.call import Call, Needs
from palora_kernels.factors import Dense
from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear.basis_weights import LARGEST, linear_basis_weights, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Stacked rays and a shared input."""

    def call(dtype: torch.dtype, scaled: bool) -> None:
        M, n, K, O, T = 5, 512, 512, 1024, 2
        D, lam = torch.empty(T, O, K, dtype=dtype, device=META), torch.empty(M, T, device=META)
        grad = D.new_empty(M * n, O) if scaled else D.new_empty(T + 1, M * n, O)
        x = D.new_empty(M * n, K)
        layer = Call(x, D[0], None, Dense(D), lam, not scaled, 0)
        run(layer, grad, Needs(x=False, weight=True, bias=False, factors=True, lam=False), scaled=scaled)

    for label, scaled in (("stacked", True), ("shared", False)):
        yield from variants_of(
            f"linear_basis_weights {label}",
            linear_basis_weights,
            lambda dtype, scaled=scaled: call(dtype, scaled),  # type: ignore[misc]
            lambda kind, target: configs.candidates(kind, target, largest=LARGEST),
            all_default=scaled,
        )
