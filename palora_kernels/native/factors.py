"""Low-rank deltas whose merging and pulling back run in C++, one pass over the weight each, in the weight's layout."""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.factors import LowRank, Needs


class NativeLowRank(LowRank):
    """`LowRank` for one memory layout of the merged weight.

    In channels_last the matricised product is formed with B's columns in the order (kh, kw, C), so that the merged
    kernel comes out in place; the loralib form mixes rows and columns and is formed in the plain order, then copied.
    """

    def __init__(self, factors: LowRank, layout: torch.memory_format) -> None:
        self.__dict__.update(factors.__dict__)
        self.layout = layout
        self.channels_last = layout == torch.channels_last
        self.in_place = not self.channels_last or self.p == self.shape[0]
        if self.channels_last and self.in_place:
            self.B = self._reorder(self.B, (1, 2, 0))

    def _reorder(self, B: Tensor, order: tuple[int, int, int]) -> Tensor:
        """(R, q) with columns (C, kh, kw) permuted to ``order``."""
        _, C, kh, kw = self.shape
        sizes = (C, kh, kw) if order == (1, 2, 0) else (kh, kw, C)
        columns = B.view(-1, *sizes).permute(0, *(1 + i for i in order))
        return columns.reshape(B.shape[0], self.q).contiguous()

    def _flat(self, weight: Tensor) -> Tensor:
        """A weight or its gradient as (p, q) in the order of the product that is formed."""
        if self.channels_last and self.in_place:
            weight = weight.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        return weight.contiguous().view(self.p, self.q)

    def _shaped(self, flat: Tensor) -> Tensor:
        if self.channels_last and self.in_place:
            O, C, kh, kw = self.shape
            return flat.view(O, kh, kw, C).permute(0, 3, 1, 2)
        return flat.view(self.shape)

    def base(self, weight: Tensor | None) -> Tensor | None:
        """The common part, once, as `merged_onto` takes it."""
        return None if weight is None else self._flat(weight)

    def merged_onto(self, base: Tensor | None, lam_m: Tensor) -> Tensor:
        """Ray m's weight in ``layout``."""
        flat = torch.ops.palora_native.merge_rows.default(base, self.A, self.B, self._columns(lam_m), self.dtype)
        return self._shaped(flat).contiguous(memory_format=self.layout)


class NativeGradients:
    """Sums the gradients of M merged weights into those of W, the factors and lam, one pass over each."""

    def __init__(self, factors: NativeLowRank, lam: Tensor, needs: Needs) -> None:
        self.factors, self.lam, self.needs = factors, lam, needs
        wide = factors.A.dtype
        empty = torch.empty(0, dtype=wide)
        self.weight = torch.zeros(factors.p, factors.q, dtype=wide) if needs.weight else empty
        self.A = torch.zeros_like(factors.A) if needs.factors else empty
        self.B = torch.zeros_like(factors.B) if needs.factors else empty
        self.lam_rows: list[Tensor] = []

    @property
    def wanted(self) -> bool:
        return self.needs.weight or self.needs.factors or self.needs.lam

    def add_ray(self, m: int, grad: Tensor) -> None:
        """``grad``: the gradient of ray m's merged weight."""
        f = self.factors
        columns = f._columns(self.lam[m])
        row = torch.ops.palora_native.pull_rows.default(f._flat(grad), f.A, f.B, columns, self.weight, self.A, self.B)
        self.lam_rows.append(row.view(f.tasks, f.r).sum(1))

    def results(self) -> tuple[Tensor | None, list[Tensor] | None, Tensor | None]:
        """(dW, factor gradients, dlam), each None where it was not asked for."""
        f = self.factors
        weight = f._shaped(self.weight.to(f.dtype)).contiguous() if self.needs.weight else None
        factors: list[Tensor] | None = None
        if self.needs.factors:
            B = f._reorder(self.B, (2, 0, 1)) if f.channels_last and f.in_place else self.B
            factors = f.finish([self.A, B])
        lam = torch.stack(self.lam_rows).to(self.lam.dtype) if self.needs.lam else None
        return weight, factors, lam
