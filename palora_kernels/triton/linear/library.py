"""The plan ``library`` of linear layers: the base products are cuBLAS's or rocBLAS's, the adapters' are written before
them.

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

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.linear import factored_backward, in_side
from palora_kernels.triton.launching.operands import Adapters
from palora_kernels.triton.linear import product as linear_product
from palora_kernels.triton.linear import sums as linear_sums
from palora_kernels.triton.linear import weights as linear_weights

# From here on the library's products for dA and dB, too, are faster than ours: 470 against 620 us for 4,096 rows of a
# 4096 x 4096 layer on an H200, 200 against 420 us for 5,120 rows of 2048 x 2048; at 320 rows it is the other way round.
_MANY_ROWS = 1024


def _adapters(S: Tensor, bias: Tensor | None, adapters: Adapters, y: Tensor, **mode: bool) -> None:
    """Fill y (M*n, O) with (S o Lam) A^T + b; S (P, R) stands for X, which a product without W does not read."""
    linear_product.run(S, None, bias, adapters, S, y, s_from="memory", **mode)


def _columns(A: Tensor) -> Tensor:
    """A (T, O, r) -> (O, R)."""
    return A.permute(1, 0, 2).reshape(A.shape[1], -1)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """S is X B^T (P, R)."""
    x, weight, rays = call.x, call.weight, call.rays
    y, S = x.new_empty(call.samples, call.outputs), torch.mm(x, in_side(call).t())
    _adapters(S, call.bias, Adapters.of(call), y, shared=call.shared)
    if weight is None:
        return y, S
    if call.shared:  # once a ray: a common product would be rounded before it is added
        weights = weight.t().expand(rays, *weight.shape[::-1])
        call.by_ray(y).baddbmm_(x.expand(rays, *x.shape), weights)
    else:
        y.addmm_(x, weight.t())
    return y, S


def backward(call: Call, grad: Tensor, S: Tensor, needs: Needs) -> Gradients:
    if grad.shape[0] >= _MANY_ROWS:
        return factored_backward(call, grad.contiguous(), S, needs)
    common, U0, dx = grad, None, None
    if call.sums_rays and (needs.x or needs.weight):
        common = linear_sums.over_rays(grad, call.lam, common=True, tasks=0)[0]
    if needs.x or needs.factors or needs.lam:
        U0 = torch.mm(grad, _columns(call.low_rank.given[0]))
    if needs.x and U0 is not None:
        dx = call.x.new_empty(call.x.shape)
        if call.sums_rays:
            linear_product.run(common, None, None, Adapters.back(call), U0, dx, s_from="rays")
        else:
            _adapters(U0, None, Adapters.back(call), dx)
        if call.weight is not None:
            dx.addmm_(common, call.weight)
    return parameters(call, grad, common, S, U0, needs)._replace(x=dx)


def parameters(
    call: Call, grad: Tensor, common: Tensor, S: Tensor, U0: Tensor | None, needs: Needs, *, weight: bool = True
) -> Gradients:
    """The gradients behind dX: of W, the bias, the factors and lam. ``common``: grad summed over rays for a shared x.

    weight: dW is the library's product; else of the same launch as the others.
    """
    dweight = torch.mm(common.t(), call.x) if needs.weight and weight else None
    factors, dbias = None, None
    wanted = linear_weights.Wanted(needs.weight and not weight, needs.factors, needs.bias and call.bias_dims == 1)
    if wanted.weight or wanted.factors or wanted.bias:
        ours, factors, dbias = linear_weights.run(call, grad, common, S, U0, wanted)
        dweight = ours if dweight is None else dweight
    if needs.bias and call.bias_dims == 2:
        dbias = linear_sums.bias(grad, call.rays, 2)
    dlam = None
    if needs.lam and U0 is not None:
        dlam = linear_sums.lam(S, U0, call.rays, call.low_rank.tasks, call.sums_rays)
    return Gradients(None, dweight, dbias, factors, dlam)
