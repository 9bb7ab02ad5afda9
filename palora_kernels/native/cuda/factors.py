"""M merged weights in one launch, and the gradients of M merged weights pulled back with one pass over them.

Weights are matrices (p, q) in the memory order of the layout that the products want: ``Merging`` flattens and shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.factors import Dense, LowRank
from palora_kernels.native.cuda import ops
from palora_kernels.native.factors import NativeLowRank
from palora_kernels.reference import opmath_dtype


def _over_elements(lam: Tensor, weight: bool) -> Tensor:
    """lam (M, T) -> (T, M), below a row of ones for the common part if there is one."""
    rows = lam.t()
    return torch.cat([rows.new_ones(1, rows.shape[1]), rows]) if weight else rows


class _MergedLowRank:
    def __init__(self, factors: LowRank, layout: torch.memory_format) -> None:
        self.native = f = NativeLowRank(factors, layout)
        self.A = f.A.to(f.dtype).view(f.p, f.tasks, f.r).transpose(0, 1)  # (T, p, r)
        self.B = f.B.to(f.dtype).view(f.tasks, f.r, f.q)
        self.p, self.q = f.p, f.q

    def flat(self, weight: Tensor) -> Tensor:
        return self.native.flat(weight)

    def shaped(self, flat: Tensor) -> Tensor:
        return self.native.shaped(flat).contiguous(memory_format=self.native.layout)

    def merge(self, weight: Tensor | None, lam: Tensor) -> Tensor:
        out = self.A.new_empty(lam.shape[0], self.p, self.q)
        base = None if weight is None else self.flat(weight)[None]
        return ops.update(out, self.A[None], self.B.transpose(1, 2)[None], lam, base=base)

    def gradients_of_factors(self, by_task: Tensor) -> list[Tensor]:
        f = self.native
        dA = (by_task @ self.B.transpose(1, 2)).contiguous()
        dB = f.as_given((self.A.transpose(1, 2) @ by_task).view(-1, self.q))
        return [dA, dB.view(f.tasks, f.r, self.q)]

    def gradient_of_lam(self, grads: Tensor, lam: Tensor) -> Tensor:
        """<grads_m, A_t B_t> = sum_p (grads_m B_t^T) o A_t."""
        f = self.native
        projected = (grads.view(-1, self.q) @ self.B.view(-1, self.q).t()).view(lam.shape[0], self.p, -1)
        A = self.A.transpose(0, 1).reshape(1, self.p, -1)
        return ops.column_sums(projected, A).view(-1, f.tasks, f.r).sum(2)


class _MergedDense:
    def __init__(self, factors: Dense, layout: torch.memory_format) -> None:
        self.layout, self.shape, self.tasks = layout, factors.shape, factors.tasks
        self.channels_last = layout == torch.channels_last
        self.p = factors.shape[0]
        D = factors.deltas()
        D = D.permute(0, 1, 3, 4, 2) if self.channels_last else D
        self.D = D.reshape(self.tasks, self.p, -1).contiguous()
        self.q = self.D.shape[2]

    def flat(self, weight: Tensor) -> Tensor:
        if self.channels_last:
            weight = weight.contiguous(memory_format=self.layout).permute(0, 2, 3, 1)
        return weight.contiguous().view(self.p, self.q)

    def shaped(self, flat: Tensor) -> Tensor:
        if not self.channels_last:
            return flat.view(self.shape)
        O, C, kh, kw = self.shape
        return flat.view(O, kh, kw, C).permute(0, 3, 1, 2)

    def merge(self, weight: Tensor | None, lam: Tensor) -> Tensor:
        out = self.D.new_empty(lam.shape[0], self.p, self.q)
        base = None if weight is None else self.flat(weight)[None, None]
        ops.combine(out[None], self.D[None], lam[None], base=base)
        return out

    def gradients_of_factors(self, by_task: Tensor) -> list[Tensor]:
        return [torch.stack([self.shaped(g) for g in by_task]).contiguous()]

    def gradient_of_lam(self, grads: Tensor, lam: Tensor) -> Tensor:
        return ops.dots(grads.view(lam.shape[0], 1, -1), self.D.view(1, self.tasks, 1, -1))


class Merging:
    """The merged weights of M rays, ``W_m = W + sum_t lam[m, t] D_t``, and the way back for their gradients."""

    def __init__(self, call: Call) -> None:
        self.kind: _MergedLowRank | _MergedDense
        if isinstance(call.factors, LowRank):
            self.kind = _MergedLowRank(call.factors, call.layout)
        else:
            self.kind = _MergedDense(call.factors, call.layout)
        self.weight, self.lam = call.weight, call.lam.to(opmath_dtype(call.factors.dtype))

    def weights(self) -> Tensor:
        """(M, p, q) in the memory order of the layout."""
        return self.kind.merge(self.weight, self.lam)

    def shaped(self, flat: Tensor) -> Tensor:
        """One (p, q) of `weights` as a weight in the layout."""
        return self.kind.shaped(flat)

    def flat(self, grad: Tensor) -> Tensor:
        """The gradient of one merged weight as (p, q)."""
        return self.kind.flat(grad)

    def pull(self, grads: Tensor, needs: Needs) -> Gradients:
        """Those of W, the factors and lam from grads (M, p, q)."""
        dweight = dlam = None
        dfactors: list[Tensor] | None = None
        if needs.factors or needs.weight:
            c = _over_elements(self.lam, needs.weight)
            c = c if needs.factors else c[:1]
            sums = grads.new_empty(c.shape[0], *grads.shape[1:])  # dW, then sum_m lam[m, t] grads[m], in one pass
            ops.combine(sums[None], grads[None], c[None])
            if needs.weight:
                dweight = self.kind.shaped(sums[0]).contiguous()
            if needs.factors:
                dfactors = self.kind.gradients_of_factors(sums[int(needs.weight) :])
        if needs.lam:
            dlam = self.kind.gradient_of_lam(grads, self.lam)
        return Gradients(None, dweight, None, dfactors, dlam)
