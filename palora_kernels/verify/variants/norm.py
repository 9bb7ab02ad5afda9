"""Catalogue entries of the kernels in `palora_kernels.triton.norm`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from palora_kernels.triton.norm import backward, forward, norm_backward, norm_forward, norm_sums
from palora_kernels.verify.catalog import Variant
from palora_kernels.verify.listing import META, plain_variants


def variants() -> Iterator[Variant]:
    """Rows of channels and planes of positions; with running statistics, forward and backward."""

    def call(dtype: torch.dtype, planes: bool, back: bool) -> None:
        x = torch.empty((64, 64, 16, 16) if planes else (640, 256), dtype=dtype, device=META)
        weight = torch.empty(x.shape[1], device=META)
        mean = torch.empty(5 if not planes else 4, x.shape[1], device=META)
        if back:
            backward(x, x, weight, mean, mean, mean.shape[0], (True, True))
        else:
            forward(x, weight, weight, weight, weight, None, (mean.shape[0], 0.1, 1e-5))

    for planes in (False, True):
        shape = "planes" if planes else "rows"
        for kernel, back in ((norm_sums, False), (norm_sums, True), (norm_forward, False), (norm_backward, True)):
            label = f"{kernel.fn.__name__} {shape}" + (" gradient" if kernel is norm_sums and back else "")
            yield from plain_variants(
                label,
                kernel,
                lambda dtype, planes=planes, back=back: call(dtype, planes, back),  # type: ignore[misc]
            )
