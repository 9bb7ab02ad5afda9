"""Catalogue entries of the kernels in `palora_kernels.triton.linear.persistent`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.configs import Target, Tile
from palora_kernels.triton.linear.persistent import candidates, linear_persistent, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Forward and dX."""

    def call(dtype: torch.dtype, along_k: bool) -> None:
        rows, K, O, C = 4096, 2048, 1024, 24
        x, left = torch.empty(rows, K, dtype=dtype, device=META), torch.empty(rows, C, dtype=dtype, device=META)
        weight, right = x.new_empty(O, K), x.new_empty(O, C)
        if along_k:
            run(x, weight, left, right, along_k=True)
        else:
            run(x, x.new_empty(K, O), left, x.new_empty(C, O), along_k=False)

    def listed(kind: str, target: Target) -> list[Tile]:
        return candidates(target) if kind == "half" and configs.copies_tiles(target) else []

    for label, along_k in (("forward", True), ("dx", False)):
        yield from variants_of(
            f"linear_persistent {label}",
            linear_persistent,
            lambda dtype, along_k=along_k: call(dtype, along_k),  # type: ignore[misc]
            listed,
        )
