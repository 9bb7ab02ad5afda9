"""Catalogue entries of the kernels in `palora_kernels.triton.merge.pull`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from palora_kernels.factors import LowRank
from palora_kernels.triton.launching import configs
from palora_kernels.triton.merge.pull import pull_low_rank, run
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants


def variants() -> Iterator[Variant]:
    """Matricised and loralib kernels, a few columns and as many as fit; of one tap, several tiles a program."""
    square, point = (128, 64, 3, 3), (1024, 1024, 1, 1)

    def call(dtype: torch.dtype, shape: tuple[int, ...], p: int, q: int, R: int) -> None:
        A, B = torch.empty(2, p, R // 2, dtype=dtype, device=META), torch.empty(2, R // 2, q, dtype=dtype, device=META)
        partial = torch.empty(5, 1 if shape is point else 4, p * q, device=META)
        run(LowRank(A, B, shape), partial, torch.empty(5, 2, device=META), weight=True)

    for label, shape, p, q, R in (
        ("matricised R16", square, 128, 576, 16),
        ("matricised R32", square, 128, 576, 32),
        ("one tap R16", point, 1024, 1024, 16),
        ("one tap R32", point, 1024, 1024, 32),
        ("loralib R24", square, 384, 192, 24),
    ):
        for target in ("sm_90",) if label.startswith("loralib") else ("sm_90", "gfx942"):
            for variant in plain_variants(
                f"pull_low_rank {label} {configs.exact(configs.TARGETS[target])}",
                pull_low_rank,
                lambda dtype, shape=shape, p=p, q=q, R=R: call(dtype, shape, p, q, R),  # type: ignore[misc]
                target=target,
            ):
                dots = "ieee" if target == "gfx942" else "tensor"
                takers = tuple(t.name for t in configs.TARGETS.values() if t.is_amd == (target == "gfx942"))
                yield replace(variant, dots=dots, targets=takers)
