"""Catalogue entries of the kernels in `palora_kernels.triton.linear.reduce`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.linear.reduce import Partial, add_splits
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants


def variants() -> Iterator[Variant]:
    """One output and four."""

    def call(dtype: torch.dtype, count: int) -> None:
        outputs = [torch.empty(1024, 512 if i == 0 else 16, dtype=dtype, device=META) for i in range(count)]
        Partial.of(outputs, 4).finish()

    for count in (1, 4):
        yield from plain_variants(
            f"add_splits {count}",
            add_splits,
            lambda dtype, count=count: call(dtype, count),  # type: ignore[misc]
        )
