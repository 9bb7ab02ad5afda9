"""The native plan of `linear`: ``factored``, whole in C++. (``merged`` is the eager one: its GEMMs are the work.)"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.eager.linear import LOW_RANK as EAGER_LOW_RANK
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


class Factored(torch.autograd.Function):
    """The factored plan for plain tensors: what ``palora::linear`` does, without three passes through the dispatcher.

    For small layers those cost as much as the layer. Compilers, modes and tensor subclasses get the op.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, bias, A, B, lam, shared = arguments
        y, S = factored_forward(x, weight, bias, A, B, lam, shared)
        ctx.save_for_backward(x, weight, A, B, lam, S)
        ctx.bias_dims, ctx.shared = 0 if bias is None else bias.dim(), shared
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        flags = ctx.needs_input_grad
        needs = [flags[0], flags[1], flags[2], flags[3] or flags[4], flags[5]]
        rest = (ctx.bias_dims, needs, ctx.shared)
        if torch.is_grad_enabled():  # create_graph=True: the op says what a second derivative needs
            found = torch.ops.palora.linear_backward(grad, *ctx.saved_tensors, *rest, "native.factored")
        else:
            found = torch.ops.palora_native.linear_backward.default(grad, *ctx.saved_tensors, *rest)
        return (*[g if wanted else None for g, wanted in zip(found, flags, strict=False)], None)


def plain(*tensors: Tensor | None) -> bool:
    """Whether `Factored` may take a call: ordinary CPU tensors, nobody watching the dispatcher, no compiler."""
    return (
        not torch.compiler.is_compiling()
        and all(t is None or t.is_cpu for t in tensors)
        and torch._C._len_torch_dispatch_stack() == 0
        and all(t is None or type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    )


LOW_RANK = {**EAGER_LOW_RANK, "factored": (factored_forward, factored_backward)}

__all__ = ["DENSE", "LOW_RANK", "Factored", "plain"]
