"""Catalogue entries of the kernels in `palora_kernels.triton.linear.splitk`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching.operands import in_side, out_side
from palora_kernels.triton.linear.splitk import linear_splitk, listed, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """Forward and dX, whose W runs along the other axis, with the columns of S beside them."""

    def call(dtype: torch.dtype, backward: bool) -> None:
        x = torch.empty(64, 1024, dtype=dtype, device=META)
        weight, A, B = x.new_empty(2048, 1024), x.new_empty(3, 2048, 8), x.new_empty(3, 8, 1024)
        if backward:
            run(x.new_empty(64, 2048), weight.t(), out_side(A))
        else:
            run(x, weight, in_side(B))

    for label, backward in (("forward", False), ("dx", True)):
        yield from variants_of(
            f"linear_splitk {label} R24",
            linear_splitk,
            lambda dtype, backward=backward: call(dtype, backward),  # type: ignore[misc]
            listed,
        )
