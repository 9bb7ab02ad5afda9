"""The native plan of `linear`: ``factored``, whole in C++. (``merged`` is the eager one: its GEMMs are the work.)"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import Gradients


def factored_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Returns Y (M*n, O) and S = X B^T (P, R), which the backward needs."""
    result: tuple[Tensor, Tensor] = torch.ops.palora_native.linear.default(x, weight, bias, A, B, lam, shared)
    return result


def factored_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    S: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    flags = [needs.x, needs.weight, needs.bias, needs.factors, needs.lam]
    found: list[Any] = torch.ops.palora_native.linear_backward.default(
        grad, x, weight, A, B, lam, S, bias_dims, flags, shared
    )
    dx, dweight, dbias, dA, dB, dlam = found
    return dx, dweight, dbias, [dA, dB], dlam
