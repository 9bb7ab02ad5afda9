"""The deltas of a layer, low-rank or dense: how to merge them into a weight, and how to pull a weight's gradient back.

Both classes offer the same three things, so that the plans need not know which kind they serve:

- ``merged(weight, lam_m)``: ``W_m = W + sum_t lam_m[t] D_t``, added in float32 or wider and rounded once;
- ``deltas()``: the T deltas as one tensor;
- a pair of pull-backs, from the gradient of one merged weight (``pull_merged``) or of all deltas (``pull_deltas``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from palora_kernels.reference import opmath_dtype


class LowRank:
    """``D_t = A_t B_t`` viewed as a weight: A (T, p, r), B (T, r, q), p*q = weight.numel().

    For Linear and the matricised convolution p = O; in the loralib form of a k x k convolution p = O/groups*k.
    """

    def __init__(self, A: Tensor, B: Tensor, shape: Sequence[int]) -> None:
        self.tasks, self.p, self.r = A.shape
        self.q = B.shape[2]
        self.shape = tuple(shape)
        self.dtype = A.dtype
        self.given = (A, B)

    @property
    def columns(self) -> int:
        """R = T*r."""
        return self.tasks * self.r

    @cached_property
    def A(self) -> Tensor:
        """(p, R) in float32 or wider."""
        A = self.given[0].to(opmath_dtype(self.dtype))
        # At r = 1 a permuted view can claim to be contiguous with odd strides; the explicit copy settles it.
        return A.permute(1, 0, 2).reshape(self.p, self.tasks * self.r).contiguous()

    @cached_property
    def B(self) -> Tensor:
        """(R, q) in float32 or wider."""
        return self.given[1].to(opmath_dtype(self.dtype)).reshape(self.tasks * self.r, self.q).contiguous()

    def columns_of(self, lam_m: Tensor) -> Tensor:
        """lam (T,) -> (R,): the coefficient of each column of A."""
        return lam_m.to(self.A.dtype).repeat_interleave(self.r)

    def merged(self, weight: Tensor | None, lam_m: Tensor) -> Tensor:
        scaled = self.A * self.columns_of(lam_m)
        if weight is None:
            total = scaled @ self.B
        else:
            total = torch.addmm(weight.to(self.A.dtype).reshape(self.p, self.q), scaled, self.B)
        return total.view(self.shape).to(self.dtype)

    def deltas(self) -> Tensor:
        per_task = self.A.view(self.p, self.tasks, self.r).transpose(0, 1)
        products = per_task @ self.B.view(self.tasks, self.r, self.q)
        return products.view(self.tasks, *self.shape).to(self.dtype)

    def new_gradients(self) -> list[Tensor]:
        return [torch.zeros_like(self.A), torch.zeros_like(self.B)]

    def pull_merged(self, grad: Tensor, lam_m: Tensor, into: list[Tensor] | None) -> Tensor:
        """Add the gradient of ray m's merged weight to ``into``; return the gradient of lam_m, (T,)."""
        grad = grad.to(self.A.dtype).reshape(self.p, self.q)
        columns = self.columns_of(lam_m)
        projected = grad @ self.B.t()  # (p, R)
        if into is not None:
            into[0].addcmul_(projected, columns.expand_as(projected))
            into[1].addcmul_(self.A.t() @ grad, columns[:, None].expand_as(self.B))
        return (projected * self.A).sum(0).view(self.tasks, self.r).sum(1)

    def pull_deltas(self, grads: Tensor) -> list[Tensor]:
        """The gradients of the arguments A and B from that of all deltas, (T, *shape)."""
        grads = grads.to(self.A.dtype).reshape(self.tasks, self.p, self.q)
        A = self.A.view(self.p, self.tasks, self.r).transpose(0, 1)
        B = self.B.view(self.tasks, self.r, self.q)
        return [(grads @ B.transpose(1, 2)).to(self.dtype), (A.transpose(1, 2) @ grads).to(self.dtype)]

    def finish(self, into: list[Tensor]) -> list[Tensor]:
        """The accumulated gradients in the layout and dtype of the arguments A and B."""
        dA = into[0].view(self.p, self.tasks, self.r).transpose(0, 1).contiguous()
        return [dA.to(self.dtype), into[1].view(self.tasks, self.r, self.q).to(self.dtype)]


class Dense:
    """Deltas without structure, D (T, *shape): PaMaL's members, or any weight differences."""

    def __init__(self, D: Tensor) -> None:
        self.tasks = D.shape[0]
        self.shape = tuple(D.shape[1:])
        self.dtype = D.dtype
        self.wide = opmath_dtype(D.dtype)
        self.given = (D,)

    @cached_property
    def D(self) -> Tensor:
        """(T, everything else) in float32 or wider."""
        return self.given[0].to(self.wide).reshape(self.tasks, prod(self.shape))

    def merged(self, weight: Tensor | None, lam_m: Tensor) -> Tensor:
        lam_m = lam_m.to(self.wide)
        if weight is None:
            total = torch.mv(self.D.t(), lam_m)
        else:
            total = torch.addmv(weight.to(self.wide).reshape(-1), self.D.t(), lam_m)
        return total.view(self.shape).to(self.dtype)

    def deltas(self) -> Tensor:
        return self.given[0].contiguous()

    def new_gradients(self) -> list[Tensor]:
        return [torch.zeros_like(self.D)]

    def pull_merged(self, grad: Tensor, lam_m: Tensor, into: list[Tensor] | None) -> Tensor:
        grad = grad.to(self.wide).reshape(-1)
        if into is not None:
            into[0].addr_(lam_m.to(self.wide), grad)
        return self.D @ grad

    def pull_deltas(self, grads: Tensor) -> list[Tensor]:
        """The gradient of the argument D, a copy: the results of an op may not share memory."""
        grads = grads.reshape(self.tasks, *self.shape)
        return [grads.to(self.dtype, copy=True, memory_format=torch.contiguous_format)]

    def finish(self, into: list[Tensor]) -> list[Tensor]:
        return [into[0].view(self.tasks, *self.shape).to(self.dtype)]


Factors = LowRank | Dense
