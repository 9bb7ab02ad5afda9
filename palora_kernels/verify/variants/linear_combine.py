"""Catalogue entries of the kernels in `palora_kernels.triton.linear.combine`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear.combine import DEEPEST, LARGEST, _shape, linear_combine, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Two and seven tasks."""

    def call(dtype: torch.dtype, T: int) -> None:
        M, n, K, O = 16, 512, 512, 1024
        D, lam = torch.empty(T, O, K, dtype=dtype, device=META), torch.empty(M, T, device=META)
        run(D.new_empty(n, K), D[0], D, D.new_empty(O), lam, D.new_empty(M * n, O))

    for T in (2, 7):
        yield from variants_of(
            f"linear_combine T{T}",
            linear_combine,
            lambda dtype, T=T: call(dtype, T),  # type: ignore[misc]
            lambda kind, target, T=T: configs.candidates(  # type: ignore[misc]
                kind, target, largest=LARGEST, columns=_shape(T + 1)[1], deepest=DEEPEST
            ),
        )
