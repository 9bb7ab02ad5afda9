"""Catalogue entries of the kernels in `palora_kernels.triton.linear.basis`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear.basis import largest, linear_basis, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Forward, dX and dX of a shared input."""

    def call(dtype: torch.dtype, swapped: bool, scaled: bool) -> None:
        M, n, K, O, T = 5, 512, 512, 1024, 2
        D, lam = torch.empty(T, O, K, dtype=dtype, device=META), torch.empty(M, T, device=META)
        if scaled and not swapped:
            run(D.new_empty(M * n, K), D[0], D, D.new_empty(O), lam, D.new_empty(M * n, O), n=n, scaled=True)
            return
        grad = D.new_empty(M * n, O) if scaled else D.new_empty(T + 1, M * n, O)
        run(grad, D[0].t(), D.transpose(1, 2), None, lam, D.new_empty(M * n, K), n=n, scaled=scaled)

    for label, swapped, scaled in (("forward", False, True), ("dx", True, True), ("dx shared", True, False)):
        yield from variants_of(
            f"linear_basis {label}",
            linear_basis,
            lambda dtype, swapped=swapped, scaled=scaled: call(dtype, swapped, scaled),  # type: ignore[misc]
            lambda kind, target: configs.candidates(kind, target, largest=largest(kind)),
            all_default=label == "forward",
        )
