"""The plan ``library`` of `linear`: the base products are cuBLAS's or rocBLAS's, the adapters' are written before them.

    S  = X B^T                 a product of R columns                U0 = G A
    Y  = (S o Lam) A^T + b     one launch, `linear_product`          dX = (U0 o Lam) B
    Y += X W^T                 a product that adds to its result     dX += G W         dW = G^T X

In this order the base product's sum is never rounded without the adapters' part: the library adds Y to its float32
accumulator and rounds once. What is rounded first is the small part, as S is in every plan. A column-block product
[X | S o Lam][W | A]^T would round as often, but copies X and W: 3 P K + 2 O K numbers beside the product's own, where
this moves P K + 2 P O.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.factors import Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.triton import linear_product, linear_sums, linear_weights
from palora_kernels.triton.operands import Factor, in_side, out_side


def _adapters(S: Tensor, bias: Tensor | None, into: Factor, out: Factor, lam: Tensor, y: Tensor, **mode: bool) -> None:
    """Fill y (M*n, O) with (S o Lam) A^T + b; S (P, R) stands for X, which a product without W does not read."""
    n = S.shape[0] if mode.get("shared") else S.shape[0] // lam.shape[0]
    linear_product.run(S, None, bias, into, out, lam, S, y, n=n, s_from="memory", **mode)


def _columns(A: Tensor) -> Tensor:
    """A (T, O, r) -> (O, R)."""
    return A.permute(1, 0, 2).reshape(A.shape[1], -1)


def forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Y (M*n, O) and S = X B^T (P, R), which the backward needs."""
    rays, O, R = lam.shape[0], A.shape[1], A.shape[0] * A.shape[2]
    rows, K = x.shape
    y = x.new_empty(rows * rays if shared else rows, O)
    if y.numel() == 0:
        return y, x.new_zeros(rows, R)
    S = torch.mm(x, B.reshape(R, K).t())
    _adapters(S, bias, in_side(B), out_side(A), lam, y, shared=shared)
    if weight is None:
        return y, S
    if shared:  # once a ray: a common product would be rounded before it is added
        y.view(rays, rows, O).baddbmm_(x.expand(rays, rows, K), weight.t().expand(rays, K, O))
    else:
        y.addmm_(x, weight.t())
    return y, S


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
    """As `linear.factored_backward`, for at least one number in ``grad`` and in ``x``."""
    rays = lam.shape[0]
    shared = shared and rays > 1  # one ray shares nothing
    common, U0, dx = grad, None, None
    if shared and (needs.x or needs.weight):
        common = linear_sums.over_rays(grad, lam, common=True, tasks=0)[0]
    if needs.x or needs.factors or needs.lam:
        U0 = torch.mm(grad, _columns(A))
    if needs.x and U0 is not None:
        dx = x.new_empty(x.shape)
        inside, outside = out_side(A), in_side(B)  # the roles are swapped: G is projected by A, and B leads back
        if shared:
            linear_product.run(common, None, None, inside, outside, lam, U0, dx, n=x.shape[0], s_from="rays")
        else:
            _adapters(U0, None, inside, outside, lam, dx)
        if weight is not None:
            dx.addmm_(common, weight)
    return dx, *parameters(grad, common, x, S, U0, A, B, lam, bias_dims, shared, needs)


def parameters(
    grad: Tensor,
    common: Tensor,
    x: Tensor,
    S: Tensor,
    U0: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None, Tensor | None]:
    """The gradients behind dX: of W, the bias, the factors and lam. ``common``: grad summed over rays if ``shared``."""
    tasks, rays = A.shape[0], lam.shape[0]
    dweight = torch.mm(common.t(), x) if needs.weight else None
    dA = dB = dbias = None
    wanted = linear_weights.Wanted(False, needs.factors, needs.bias and bias_dims == 1)
    if wanted.factors or wanted.bias:
        _, dA, dB, dbias = linear_weights.run(grad, common, x, S, U0, A, B, lam, shared, wanted)
    if needs.bias and bias_dims == 2:
        dbias = linear_sums.bias(grad, rays, bias_dims)
    dlam = linear_sums.lam(S, U0, rays, tasks, shared) if needs.lam and U0 is not None else None
    return dweight, dbias, None if dA is None or dB is None else [dA, dB], dlam
