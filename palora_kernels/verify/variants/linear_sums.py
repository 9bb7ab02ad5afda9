"""Catalogue entries of the kernels in `palora_kernels.triton.linear.sums`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from palora_kernels.triton.linear.sums import bias, lam, linear_bias, linear_lam, linear_over_rays, over_rays
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants


def variants() -> Iterator[Variant]:
    """The three sums, as a layer of two tasks asks for them."""
    M, n, O, T = 5, 512, 1024, 2

    def grad(dtype: torch.dtype) -> Tensor:
        return torch.empty(M * n, O, dtype=dtype, device=META)

    rays = torch.empty(M, T, device=META)
    for label, tasks in (("low rank", 0), ("dense", T)):
        yield from plain_variants(
            f"linear_over_rays {label}",
            linear_over_rays,
            lambda dtype, tasks=tasks: over_rays(grad(dtype), rays, common=True, tasks=tasks),  # type: ignore[misc]
        )
    yield from plain_variants("linear_bias", linear_bias, lambda dtype: bias(grad(dtype), M, 2))
    for label, few in (("low rank", 16), ("one row a ray", 2)):
        yield from plain_variants(
            f"linear_lam {label}",
            linear_lam,
            lambda dtype, few=few: lam(  # type: ignore[misc]
                grad(dtype)[:, :few].contiguous(), grad(dtype)[:, :few].contiguous(), M if few > 2 else M * n, T, False
            ),
        )
