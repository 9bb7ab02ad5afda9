"""Catalogue entries of the kernels in `palora_kernels.triton.linear.extend`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.linear.extend import linear_extend, rows, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants


def variants() -> Iterator[Variant]:
    """Both sides, and the rows alone, where some device has the kernel that reads them."""
    if not any(configs.copies_tiles(target) for target in configs.TARGETS.values()):
        return

    def call(dtype: torch.dtype, both: bool) -> None:
        M, n, O, T, r = 5, 512, 1024, 2, 8
        S, lam = torch.empty(M * n, T * r, dtype=dtype, device=META), torch.empty(M, T, device=META)
        if both:
            run(S, lam, S.new_empty(T, O, r), S.new_empty(O), 1)
        else:
            rows(S, lam)

    for label, both in (("both sides", True), ("rows", False)):
        yield from plain_variants(f"linear_extend {label}", linear_extend, lambda dtype, both=both: call(dtype, both))  # type: ignore[misc]
