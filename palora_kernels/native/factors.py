"""Low-rank deltas whose merging and pulling back run in C++, one pass over the weight each, in the weight's layout."""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.merging import Merging, WeightGradients
from palora_kernels.factors import LowRank


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
            self.B = self.reordered(self.B, (1, 2, 0))

    def reordered(self, B: Tensor, order: tuple[int, int, int]) -> Tensor:
        """(R, q) with columns (C, kh, kw) permuted to ``order``."""
        _, C, kh, kw = self.shape
        sizes = (C, kh, kw) if order == (1, 2, 0) else (kh, kw, C)
        columns = B.view(-1, *sizes).permute(0, *(1 + i for i in order))
        return columns.reshape(B.shape[0], self.q).contiguous()

    def as_given(self, B: Tensor) -> Tensor:
        """(R, q) as `B` is here -> with columns (C, kh, kw)."""
        return self.reordered(B, (2, 0, 1)) if self.channels_last and self.in_place else B

    def flat(self, weight: Tensor) -> Tensor:
        """A weight or its gradient as (p, q) in the order of the product that is formed."""
        if self.channels_last and self.in_place:
            weight = weight.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        return weight.contiguous().view(self.p, self.q)

    def shaped(self, flat: Tensor) -> Tensor:
        if self.channels_last and self.in_place:
            O, C, kh, kw = self.shape
            return flat.view(O, kh, kw, C).permute(0, 3, 1, 2)
        return flat.view(self.shape)


class NativeMerging(Merging):
    """The merged weights of a call's rays; deltas of the other kind are merged as `Merging` does."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.factors = NativeLowRank(call.factors, call.layout) if isinstance(call.factors, LowRank) else None
        weight = call.weight
        self.base = None if self.factors is None or weight is None else self.factors.flat(weight)

    def weight(self, m: int) -> Tensor:
        f = self.factors
        if f is None:
            return super().weight(m)
        columns = f.columns_of(self.call.lam[m])
        return self.call.dense(
            f.shaped(torch.ops.palora_native.merge_rows.default(self.base, f.A, f.B, columns, f.dtype))
        )

    def gradients(self, needs: Needs) -> WeightGradients:
        return super().gradients(needs) if self.factors is None else NativeGradients(self.call, self.factors, needs)


class NativeGradients(WeightGradients):
    """The same in C++, one pass over each ray's gradient."""

    def __init__(self, call: Call, native: NativeLowRank, needs: Needs) -> None:
        self.native, self.lam, self.needs = native, call.lam, needs
        wide = native.A.dtype
        empty = torch.empty(0, dtype=wide)
        self.total = torch.zeros(native.p, native.q, dtype=wide) if needs.weight else empty
        self.A = torch.zeros_like(native.A) if needs.factors else empty
        self.B = torch.zeros_like(native.B) if needs.factors else empty
        self.lam_rows: list[Tensor] = []

    def add_ray(self, m: int, grad: Tensor) -> None:
        f = self.native
        columns = f.columns_of(self.lam[m])
        row = torch.ops.palora_native.pull_rows.default(f.flat(grad), f.A, f.B, columns, self.total, self.A, self.B)
        self.lam_rows.append(row.view(f.tasks, f.r).sum(1))

    def results(self, x: Tensor | None = None, bias: Tensor | None = None) -> Gradients:
        f = self.native
        weight = f.shaped(self.total.to(f.dtype)).contiguous() if self.needs.weight else None
        factors = f.finish([self.A, f.as_given(self.B)]) if self.needs.factors else None
        lam = torch.stack(self.lam_rows).to(self.lam.dtype) if self.needs.lam else None
        return Gradients(x, weight, bias, factors, lam)
