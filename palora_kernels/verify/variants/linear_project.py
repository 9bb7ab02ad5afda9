"""Catalogue entries of the kernels in `palora_kernels.triton.linear.project`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.operands import in_side
from palora_kernels.triton.linear.project import linear_project, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, variants_of


def variants() -> Iterator[Variant]:
    """S for 16 and for 64 columns."""

    def call(dtype: torch.dtype, R: int) -> None:
        x = torch.empty(2560, 1024, dtype=dtype, device=META)
        run(x, in_side(x.new_empty(2, R // 2, 1024)))

    for R in (16, 64):
        yield from variants_of(
            f"linear_project R{R}",
            linear_project,
            lambda dtype, R=R: call(dtype, R),  # type: ignore[misc]
            lambda kind, target, R=R: configs.candidates(kind, target, columns=R),  # type: ignore[misc]
        )
