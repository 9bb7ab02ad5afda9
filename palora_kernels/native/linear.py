"""The native plan of `linear`: ``factored``, whole in C++. (``merged`` is the eager one: its GEMMs are the work.)"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import LOW_RANK as EAGER_LOW_RANK
from palora_kernels.eager.linear import Gradients
from palora_kernels.native.basis import DENSE


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
        grad.contiguous(), x, weight, A, B, lam, S, bias_dims, flags, shared
    )
    dx, dweight, dbias, dA, dB, dlam = found
    return dx, dweight, dbias, [dA, dB], dlam


def plain(*tensors: Tensor | None) -> bool:
    """Whether `with_gradient` may take a call: ordinary CPU tensors, nobody watching the dispatcher, no compiler."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    for t in tensors:
        if t is not None and not (t.is_cpu and (type(t) is Tensor or type(t) is torch.nn.Parameter)):
            return False
    return True


def with_gradient(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    """What ``palora::linear`` does with this plan, its gradient attached in C++; see `plain`.

    Python's part of an op and its gradient would cost as much as a small layer. Compilers, modes and tensor subclasses
    get the op.
    """
    y: Tensor = torch.ops.palora_native.factored_linear.default(x, weight, bias, A, B, lam, shared)
    return y


LOW_RANK = {**EAGER_LOW_RANK, "factored": (factored_forward, factored_backward)}

__all__ = ["DENSE", "LOW_RANK", "plain", "with_gradient"]
