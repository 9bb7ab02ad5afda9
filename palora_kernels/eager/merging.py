"""Merged weights one ray at a time: how a ray's is formed, and where its gradient goes."""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.reference import opmath_dtype


class WeightGradients:
    """Sums the gradients of M merged weights, one at a time, into those of W, the factors and lam."""

    def __init__(self, call: Call, needs: Needs) -> None:
        self.factors, self.lam, self.needs = call.factors, call.lam, needs
        self.weight: Tensor | None = None
        self.into = call.factors.new_gradients() if needs.factors else None
        self.lam_rows: list[Tensor] = []

    def add_ray(self, m: int, grad: Tensor) -> None:
        """``grad``: the gradient of ray m's merged weight."""
        if self.needs.weight:
            wide = grad.to(opmath_dtype(grad.dtype))
            if self.weight is None:
                self.weight = wide.clone(memory_format=torch.contiguous_format)
            else:
                self.weight.add_(wide)
        if self.needs.factors or self.needs.lam:
            self.lam_rows.append(self.factors.pull_merged(grad, self.lam[m], self.into))

    def results(self, x: Tensor | None = None, bias: Tensor | None = None) -> Gradients:
        """All gradients, beside those given here."""
        weight = None if self.weight is None else self.weight.to(self.factors.dtype)
        factors = None if self.into is None else self.factors.finish(self.into)
        lam = torch.stack(self.lam_rows).to(self.lam.dtype) if self.needs.lam else None
        return Gradients(x, weight, bias, factors, lam)


class Merging:
    """The merged weights of a call's rays."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def weight(self, m: int) -> Tensor:
        """Ray m's, (O, K) or (O, C/groups, kh, kw); a kernel in the layout of the result."""
        merged = self.call.factors.merged(self.call.weight, self.call.lam[m])
        return merged if self.call.conv is None else self.call.dense(merged)

    def gradients(self, needs: Needs) -> WeightGradients:
        return WeightGradients(self.call, needs)
