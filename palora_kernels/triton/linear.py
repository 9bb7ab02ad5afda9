"""The Triton plans of `linear` and `linear_delta`: which kernels run, on what, for which gradients.

``factored`` keeps A and B apart and forms S = X B^T beside the base product, in one launch; where R is too large for
that it is ``split``: S first, in a launch of its own. ``splitk`` cuts the reduction into pieces, for few rows.
``library`` leaves the base products to cuBLAS, which adds them to the adapters' part. ``persistent`` makes the adapters
columns of the base product, which TMA copies feed. ``merged`` forms the M weights in one launch and multiplies with
cuBLAS. ``basis`` computes the products with W and every D_t and combines them; with a shared input once for all rays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.eager.linear import factored_backward as eager_backward
from palora_kernels.triton import (
    linear_dense,
    linear_few,
    linear_library,
    linear_persistent_plan,
    linear_product,
    linear_project,
    linear_rays,
    linear_sums,
    linear_weights,
)
from palora_kernels.triton.operands import in_side, out_side


def factored_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    shared: bool,
    fused: bool = True,
) -> tuple[Tensor, Tensor]:
    """Y (M*n, O) and S = X B^T (P, R), which the backward needs. ``fused`` off is the plan ``split``."""
    rays, O, R = lam.shape[0], A.shape[1], A.shape[0] * A.shape[2]
    rows = x.shape[0]
    y = x.new_empty(rows * rays if shared else rows, O)
    if y.numel() == 0:
        return y, x.new_zeros(rows, R)
    into, out = in_side(B), out_side(A)
    n = rows if shared else rows // rays
    beside = linear_product.widest(x.dtype)
    if fused and beside >= R:
        S = x.new_empty(rows, R)
        linear_product.run(x, weight, bias, into, out, lam, S, y, n=n, s_from="x", shared=shared)
    else:
        S = linear_project.run(x, into)
        linear_product.run(x, weight, bias, into, out, lam, S, y, n=n, s_from="memory", shared=shared)
    return y, S


def _zeros(like: list[tuple[bool, Tensor | None]]) -> list[Tensor | None]:
    return [
        torch.zeros_like(t, memory_format=torch.contiguous_format) if w and t is not None else None for w, t in like
    ]


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
    fused: bool = True,
) -> Gradients:
    tasks, r = A.shape[0], A.shape[2]
    rays = lam.shape[0]
    if grad.numel() == 0 or x.numel() == 0:
        return _empty(grad, x, weight, A, B, lam, bias_dims, needs)
    n = grad.shape[0] // rays
    shared = shared and rays > 1  # one ray shares nothing
    needs_u = needs.factors or needs.lam
    inside, outside = out_side(A), in_side(B)  # the roles are swapped: G is projected by A, and B leads back
    common, dx, U0 = grad, None, None
    if shared and _reads_sum(needs):
        if (needs.x or needs_u) and linear_rays.fits(grad, rays, tasks * r):
            common, U0 = linear_rays.run(grad, inside, rays)
        else:
            common = linear_sums.over_rays(grad, lam, common=True, tasks=0)[0]
    if needs.x and fused and not shared and tasks * r <= linear_product.widest(x.dtype):
        dx = x.new_empty(x.shape)
        U0 = grad.new_empty(grad.shape[0], tasks * r) if needs_u else None
        transposed = None if weight is None else weight.t()
        linear_product.run(grad, transposed, None, inside, outside, lam, U0, dx, n=n, s_from="x")
    elif needs.x or needs_u:
        U0 = linear_project.run(grad, inside) if U0 is None else U0
        if needs.x:
            dx = x.new_empty(x.shape)
            transposed = None if weight is None else weight.t()
            s_from = "rays" if shared else "memory"
            linear_product.run(common, transposed, None, inside, outside, lam, U0, dx, n=n, s_from=s_from)
    dweight = dbias = dA = dB = None
    wanted = linear_weights.Wanted(needs.weight, needs.factors, needs.bias and bias_dims == 1)
    if wanted.weight or wanted.factors or wanted.bias:
        dweight, dA, dB, dbias = linear_weights.run(grad, common, x, S, U0, A, B, lam, shared, wanted)
    if needs.bias and bias_dims == 2:
        dbias = linear_sums.bias(grad, rays, bias_dims)
    dlam = linear_sums.lam(S, U0, rays, tasks, shared) if needs.lam and U0 is not None else None
    factors = [dA, dB] if dA is not None and dB is not None else None
    return dx, dweight, dbias, factors, dlam


def _reads_sum(needs: Needs) -> bool:
    """Whether a shared input's backward needs the gradient summed over rays."""
    return needs.x or needs.weight


def _empty(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    bias_dims: int,
    needs: Needs,
) -> Gradients:
    """No rows, no outputs or no inputs: every gradient is zero but that of the bias."""
    dx, dweight, dA, dB, dlam = _zeros(
        [(needs.x, x), (needs.weight, weight), (needs.factors, A), (needs.factors, B), (needs.lam, lam)]
    )
    dbias = None
    if needs.bias:
        rays, outputs = lam.shape[0], A.shape[1]
        none = grad.new_zeros(outputs if bias_dims == 1 else (rays, outputs))
        dbias = linear_sums.bias(grad, rays, bias_dims) if grad.numel() else none
    return dx, dweight, dbias, [dA, dB] if dA is not None and dB is not None else None, dlam


# From here on the library's products for dA and dB, too, are faster than ours: 470 against 620 us for 4,096 rows of a
# 4096 x 4096 layer on an H200, 200 against 420 us for 5,120 rows of 2048 x 2048; at 320 rows it is the other way round.
_MANY_ROWS = 1024


def library_backward(
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
    if grad.numel() == 0 or x.numel() == 0:
        return _empty(grad, x, weight, A, B, lam, bias_dims, needs)
    if grad.shape[0] >= _MANY_ROWS:
        return eager_backward(grad, x, weight, A, B, lam, S, bias_dims, shared, needs)
    return linear_library.backward(grad, x, weight, A, B, lam, S, bias_dims, shared, needs)


def splitk_backward(
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
    if grad.numel() == 0 or x.numel() == 0:
        return _empty(grad, x, weight, A, B, lam, bias_dims, needs)
    return linear_few.backward(grad, x, weight, A, B, lam, S, bias_dims, shared, needs)


def persistent_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    found = linear_persistent_plan.forward(x, weight, bias, A, B, lam, shared)
    return linear_library.forward(x, weight, bias, A, B, lam, shared) if found is None else found


def persistent_backward(grad: Tensor, *call: Any) -> Gradients:
    found = linear_persistent_plan.backward(grad, *call)
    return library_backward(grad, *call) if found is None else found


def merged_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, None]:
    return linear_dense.merged_forward(x, weight, bias, linear_dense.one_tap(A, B), lam, shared), None


def merged_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    S: Tensor | None,
    *rest: Any,
) -> Gradients:
    return linear_dense.merged_backward(grad, x, weight, linear_dense.one_tap(A, B), lam, *rest)


def merged_delta_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, D: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    return linear_dense.merged_forward(x, weight, bias, linear_dense.one_tap(D), lam, shared)


def merged_delta_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, D: Tensor, lam: Tensor, *rest: Any
) -> Gradients:
    return linear_dense.merged_backward(grad, x, weight, linear_dense.one_tap(D), lam, *rest)


Plan = tuple[Callable[..., Any], Callable[..., Any]]
LOW_RANK: dict[str, Plan] = {
    "factored": (factored_forward, factored_backward),
    "split": (partial(factored_forward, fused=False), partial(factored_backward, fused=False)),
    "splitk": (linear_few.forward, splitk_backward),
    "library": (linear_library.forward, library_backward),
    "persistent": (persistent_forward, persistent_backward),
    "merged": (merged_forward, merged_backward),
}
DENSE: dict[str, Plan] = {
    "basis": (linear_dense.basis_forward, linear_dense.basis_backward),
    "merged": (merged_delta_forward, merged_delta_backward),
}
