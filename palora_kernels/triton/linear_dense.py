"""The plans of arbitrary deltas, and the merged plan, which is theirs and the low-rank layers'.

``basis``: the products with W and every D_t, combined per row, or for a shared input once and then per ray.
``merged``: the M weights in one launch (`merge`), then batched products, which cuBLAS or rocBLAS does best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.factors import Dense, Factors, LowRank, Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.triton import (
    linear_basis,
    linear_basis_lam,
    linear_basis_weights,
    linear_combine,
    linear_sums,
    merge,
    merge_pull,
)


def _elements(weight: Tensor | None, D: Tensor) -> tuple[Tensor | None, Tensor]:
    """weight and D with the strides of (O, K), as the kernels that step from one to the other need them."""
    return None if weight is None else weight.contiguous(), D.contiguous()


def basis_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, D: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    rays, n = lam.shape[0], x.shape[0] if shared else x.shape[0] // lam.shape[0]
    elements = D.shape[0] + (weight is not None)
    y = x.new_empty(rays * n, D.shape[1])
    if y.numel() == 0:
        return y
    if D.shape[0] == 0 or (shared and rays > 1 and elements > linear_combine.MOST_ELEMENTS):
        return merged_forward(x, weight, bias, one_tap(D), lam, shared)
    weight, D = _elements(weight, D)
    if shared and rays > 1:
        linear_combine.run(x, weight, D, bias, lam, y)
    else:
        linear_basis.run(x, weight, D, bias, lam, y, n=n, scaled=True)
    return y


def basis_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    D: Tensor,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    rays, tasks = lam.shape
    if grad.numel() == 0 or tasks == 0:
        return merged_backward(grad, x, weight, one_tap(D), lam, bias_dims, shared, needs)
    n = grad.shape[0] // rays
    shared = shared and rays > 1
    common = weight is not None
    weight, D = _elements(weight, D)
    # With a shared input every gradient but lam's sees the rays only through these sums.
    summed = linear_sums.over_rays(grad, lam, common=common, tasks=tasks) if shared else grad
    dx = dweight = dlam = dD = None
    if needs.x:
        dx = x.new_empty(x.shape)
        transposed = None if weight is None else weight.t()
        linear_basis.run(summed, transposed, D.transpose(1, 2), None, lam, dx, n=n, scaled=not shared)
    if needs.weight or needs.factors:
        dweight, dD = linear_basis_weights.run(
            summed,
            x,
            D,
            lam,
            n=n,
            scaled=not shared,
            common=common,
            weight=needs.weight,
            deltas=needs.factors,
        )
    if needs.lam:
        dlam = linear_basis_lam.run(grad, x, D, rays, shared)
    dbias = linear_sums.bias(grad, rays, bias_dims) if needs.bias else None
    return dx, dweight, dbias, None if dD is None else [dD], dlam


# -------------------------------------------------------------------------------------------------------------- merged


def one_tap(*factors: Tensor) -> Factors:
    """A (T, O, r) and B (T, r, K), or D (T, O, K), as those of a convolution with one tap, which `merge` forms."""
    if len(factors) == 1:
        return Dense(factors[0][..., None, None])
    A, B = factors
    return LowRank(A, B, (A.shape[1], B.shape[2], 1, 1))


def _merged(weight: Tensor | None, factors: Factors, lam: Tensor) -> Tensor:
    """(M, O, K): a matrix is a kernel with one tap."""
    O, K = factors.shape[:2]
    taps = None if weight is None else weight.view(O, K, 1, 1)
    return merge.kernels_of_rays(taps, factors, lam).view(lam.shape[0], O, K)


def merged_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, factors: Factors, lam: Tensor, shared: bool
) -> Tensor:
    rays = lam.shape[0]
    O = factors.shape[0]
    per_ray = x.expand(rays, *x.shape) if shared else x.reshape(rays, x.shape[0] // rays, x.shape[1])
    weights = _merged(weight, factors, lam).transpose(1, 2)
    if bias is None:
        return torch.bmm(per_ray, weights).view(-1, O)
    return torch.baddbmm(bias.view(-1, 1, O), per_ray, weights).view(-1, O)


def merged_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    factors: Factors,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    rays = lam.shape[0]
    n, O, K = grad.shape[0] // rays, grad.shape[1], x.shape[1]
    per_ray = grad.reshape(rays, n, O)
    dx = dweight = dfactors = dlam = dbias = None
    if needs.x:
        weights = _merged(weight, factors, lam)
        if shared:  # the sum over rays is part of one product's reduction
            dx = per_ray.transpose(0, 1).reshape(n, rays * O) @ weights.view(rays * O, K)
        else:
            dx = torch.bmm(per_ray, weights).view(rays * n, K)
    if needs.weight or needs.factors or needs.lam:
        rows = x.expand(rays, n, K) if shared else x.reshape(rays, n, K)
        gradients = _wide_bmm(per_ray.transpose(1, 2), rows)
        each = needs.factors or needs.lam
        if each and isinstance(factors, LowRank) and merge_pull.fits(factors, x.device):
            partial = gradients.view(rays, 1, O * K)
            dweight, pulled, dlam = merge_pull.run(factors, partial, lam, weight=needs.weight)
            dweight = None if dweight is None else dweight.view(O, K)
            dfactors, dlam = (pulled if needs.factors else None), (dlam if needs.lam else None)
        else:
            if needs.weight:
                dweight = gradients.sum(0).to(x.dtype)
            if each:
                dfactors, dlam = merge.pull_back(factors, gradients.view(rays, O, K, 1, 1), lam, needs)
                if dfactors is not None and isinstance(factors, Dense):
                    dfactors = [dfactors[0].view(-1, O, K)]
    if needs.bias:
        empty = grad.new_zeros(O if bias_dims == 1 else (rays, O))
        dbias = linear_sums.bias(grad, rays, bias_dims) if grad.numel() else empty
    return dx, dweight, dbias, dfactors, dlam


def _wide_bmm(a: Tensor, b: Tensor) -> Tensor:
    """The batched product of 16-bit matrices as it was accumulated, in float32."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.device.type == "cuda":
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
