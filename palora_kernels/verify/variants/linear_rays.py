"""Catalogue entries of the kernels in `palora_kernels.triton.linear.rays`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching.operands import out_side
from palora_kernels.triton.linear.rays import MOST_COLUMNS, MOST_RAYS, linear_rays, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants


def variants() -> Iterator[Variant]:
    """Few columns and many, few rays and as many as fit."""

    def call(dtype: torch.dtype, rays: int, R: int) -> None:
        grad = torch.empty(rays * 512, 256, dtype=dtype, device=META)
        R = min(R, MOST_COLUMNS[grad.element_size()])
        run(grad, out_side(grad.new_empty(2, 256, R // 2)), rays)

    for rays, R in ((2, 16), (8, 32), (MOST_RAYS, 64)):
        yield from plain_variants(
            f"linear_rays M{rays} R{R}",
            linear_rays,
            lambda dtype, rays=rays, R=R: call(dtype, rays, R),  # type: ignore[misc]
            products=True,
        )
