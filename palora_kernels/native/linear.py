"""The native plans of linear layers: ``factored``, whole in C++, and ``basis``. ``merged`` is eager: its GEMMs are the
work."""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.linear import PLANS as EAGER
from palora_kernels.native.basis import linear_backward, linear_forward


def factored_forward(call: Call) -> tuple[Tensor, Tensor]:
    """S is X B^T (P, R)."""
    result: tuple[Tensor, Tensor] = torch.ops.palora_native.linear.default(
        call.x, call.weight, call.bias, *call.low_rank.given, call.lam, call.shared
    )
    return result


def factored_backward(call: Call, grad: Tensor, S: Tensor, needs: Needs) -> Gradients:
    flags = [needs.x, needs.weight, needs.bias, needs.factors, needs.lam]
    dx, dweight, dbias, dA, dB, dlam = torch.ops.palora_native.linear_backward.default(
        grad, call.x, call.weight, *call.low_rank.given, call.lam, S, call.bias_dims, flags, call.shared
    )
    return Gradients(dx, dweight, dbias, [dA, dB], dlam)


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


PLANS = {
    **EAGER,
    "factored": (factored_forward, factored_backward),
    "basis": (linear_forward, linear_backward),
}
