"""Catalogue entries of the kernels in `palora_kernels.triton.linear.splitk_sum`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching.configs import Target
from palora_kernels.triton.launching.operands import out_side
from palora_kernels.triton.launching.tuning import Tile
from palora_kernels.triton.linear import splitk as linear_splitk
from palora_kernels.triton.linear.splitk import Partial
from palora_kernels.triton.linear.splitk_sum import TILES, linear_splitk_sum, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """For a bias an output and few splits, and for a bias a ray and as many as there may be."""

    def call(dtype: torch.dtype, splits: int, per_ray: bool) -> None:
        M, O, T, r = 64, 2048, 3, 8
        s = torch.empty(M, T * r, dtype=dtype, device=META)
        partial = Partial(s.new_empty(splits * M * (O + 32), dtype=torch.float32), splits, O + 32, O)
        y, bias = s.new_empty(M, O), s.new_empty(*((M, O) if per_ray else (O,)))
        run(partial, bias, out_side(s.new_empty(T, O, r)), torch.empty(M, T, device=META), s, y, n=1)

    def listed(kind: str, target: Target) -> list[Tile]:
        return TILES

    for splits, per_ray in ((4, False), (linear_splitk.SPLITS[-1], True)):
        yield from variants_of(
            f"linear_splitk_sum of {splits}",
            linear_splitk_sum,
            lambda dtype, splits=splits, per_ray=per_ray: call(dtype, splits, per_ray),  # type: ignore[misc]
            listed,
        )
