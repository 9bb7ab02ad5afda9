"""The plan ``splitk`` of `linear`: few rows and a large W, whose reading is all the time there is.

    launch 1   partial sums of X W^T and X B^T, K in splits      of G W and G A, O in splits
    launch 2   Y = their sum + (S o Lam) A^T + b, and S          dX = their sum + (U0 o Lam) B, and U0

The gradients of the parameters are those of the plan ``library``, and so is the backward of a shared input, whose base
product runs on other rows than U0.
"""

from __future__ import annotations

from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.triton import linear_library, linear_splitk, linear_splitk_sum
from palora_kernels.triton.operands import Factor, in_side, out_side


def _product(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    into: Factor,
    out: Factor,
    lam: Tensor,
    y: Tensor | None,
    n: int,
) -> Tensor:
    """Fill y, if it is there, and return S (rows, R)."""
    s = x.new_empty(x.shape[0], into.columns)
    partial = linear_splitk.run(x, weight if y is not None else None, into)
    linear_splitk_sum.run(partial, bias, out, lam, s, y, n)
    return s


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Y (M*n, O) and S = X B^T (P, R), which the backward needs."""
    rays, rows = lam.shape[0], x.shape[0]
    y = x.new_empty(rows * rays if shared else rows, A.shape[1])
    if y.numel() == 0:
        return y, x.new_zeros(rows, A.shape[0] * A.shape[2])
    return y, _product(x, weight, bias, in_side(B), out_side(A), lam, y, rows if shared else rows // rays)


def backward(
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
    """As `linear_library.backward`."""
    rays = lam.shape[0]
    if shared and rays > 1:
        return linear_library.backward(grad, x, weight, A, B, lam, S, bias_dims, shared, needs)
    dx, U0 = None, None
    if needs.x or needs.factors or needs.lam:
        dx = x.new_empty(x.shape) if needs.x else None
        transposed = None if weight is None else weight.t()
        inside, outside = out_side(A), in_side(B)  # the roles are swapped: G is projected by A, and B leads back
        U0 = _product(grad, transposed, None, inside, outside, lam, dx, grad.shape[0] // rays)
    return dx, *linear_library.parameters(grad, grad, x, S, U0, A, B, lam, bias_dims, False, needs)
