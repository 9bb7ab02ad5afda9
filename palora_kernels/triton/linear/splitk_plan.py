"""The plan ``splitk`` of linear layers: few rows and a large W, whose reading is all the time there is.

    launch 1   partial sums of X W^T and X B^T, K in splits      of G W and G A, O in splits
    launch 2   Y = their sum + (S o Lam) A^T + b, and S          dX = their sum + (U0 o Lam) B, and U0

The gradients of the parameters are those of the plan ``library``, and so is the backward of a shared input, whose base
product runs on other rows than U0.
"""

from __future__ import annotations

from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.triton.launching.operands import Adapters
from palora_kernels.triton.linear import library as linear_library
from palora_kernels.triton.linear import splitk as linear_splitk
from palora_kernels.triton.linear import splitk_sum as linear_splitk_sum


def _product(x: Tensor, weight: Tensor | None, bias: Tensor | None, adapters: Adapters, y: Tensor | None) -> Tensor:
    """Fill y, if it is there, and return S (rows, R)."""
    s = x.new_empty(x.shape[0], adapters.into.columns)
    partial = linear_splitk.run(x, weight if y is not None else None, adapters.into)
    linear_splitk_sum.run(partial, bias, adapters.out, adapters.lam, s, y, adapters.n)
    return s


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """S is X B^T (P, R)."""
    y = call.x.new_empty(call.samples, call.outputs)
    return y, _product(call.x, call.weight, call.bias, Adapters.of(call), y)


def backward(call: Call, grad: Tensor, S: Tensor, needs: Needs) -> Gradients:
    if call.sums_rays:
        return linear_library.backward(call, grad, S, needs)
    dx, U0 = None, None
    if needs.x or needs.factors or needs.lam:
        dx = call.x.new_empty(call.x.shape) if needs.x else None
        transposed = None if call.weight is None else call.weight.t()
        U0 = _product(grad, transposed, None, Adapters.back(call), dx)
    return linear_library.parameters(call, grad, grad, S, U0, needs)._replace(x=dx)
