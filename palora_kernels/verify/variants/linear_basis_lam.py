"""Catalogue entries of the kernels in `palora_kernels.triton.linear.basis_lam`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear.basis_lam import LARGEST, linear_basis_lam, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Stacked rays and a shared input."""

    def call(dtype: torch.dtype, shared: bool) -> None:
        M, n, K, O, T = 5, 512, 512, 1024, 2
        D = torch.empty(T, O, K, dtype=dtype, device=META)
        run(D.new_empty(M * n, O), D.new_empty(n if shared else M * n, K), D, M, shared)

    for label, shared in (("stacked", False), ("shared", True)):
        yield from variants_of(
            f"linear_basis_lam {label}",
            linear_basis_lam,
            lambda dtype, shared=shared: call(dtype, shared),  # type: ignore[misc]
            lambda kind, target: configs.candidates(kind, target, largest=LARGEST),
            all_default=shared,
        )
