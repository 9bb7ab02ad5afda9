"""Plans of `linear` and `linear_delta`.

``factored`` keeps A and B apart, S = X B^T and Y = X W^T + (S o Lam) A^T: one stacked base product for all rays.
``merged`` forms W_m ray by ray. ``basis`` computes the T+1 products X W^T, X D_t^T once and combines them per ray.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.factors import Dense, Factors, LowRank, Needs, WeightGradients
from palora_kernels.reference import opmath_dtype

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor] | None, Tensor | None]


def add_bias_(y: Tensor, bias: Tensor | None, rays: int) -> Tensor:
    """y (M*n, O) += bias (O,) or, ray by ray, (M, O); in place."""
    if bias is None:
        return y
    if bias.dim() == 1:
        return y.add_(bias)
    y.view(rays, y.shape[0] // rays, y.shape[1]).add_(bias[:, None, :])
    return y


def bias_gradient(grad: Tensor, rays: int, bias_dims: int) -> Tensor:
    """grad (M*n, O) -> (O,), or (M, O) for a bias per ray."""
    if bias_dims == 1:
        return grad.sum(0)
    return grad.view(rays, grad.shape[0] // rays, grad.shape[1]).sum(1)


def _scaled(S: Tensor, lam: Tensor, tasks: int, shared: bool) -> Tensor:
    """S o Lam: S (P, R), lam (M, T) -> (M*n, R), multiplied in float32 or wider, in S's dtype."""
    rays, R = lam.shape[0], S.shape[1]
    n = S.shape[0] if shared else S.shape[0] // rays
    wide = S.to(opmath_dtype(S.dtype)).view(1 if shared else rays, n, tasks, R // max(tasks, 1))
    return (wide * lam.to(wide.dtype)[:, None, :, None]).to(S.dtype).view(rays * n, R)


def factored_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Returns Y (M*n, O) and S = X B^T (P, R), which the backward needs."""
    tasks, O, r = A.shape
    rays = lam.shape[0]
    S = x @ B.reshape(tasks * r, x.shape[1]).t()
    scaled = _scaled(S, lam, tasks, shared)
    At = A.transpose(1, 2).reshape(tasks * r, O)  # (R, O)
    if weight is None:
        return add_bias_(scaled @ At, bias, rays), S
    common = bias if bias is not None and bias.dim() == 1 else None
    base = x @ weight.t() if common is None else torch.addmm(common, x, weight.t())
    y = base.repeat(rays, 1) if shared and rays > 1 else base
    y.addmm_(scaled, At)
    return (y if common is not None else add_bias_(y, bias, rays)), S


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
    grad = grad.contiguous()
    tasks, O, r = A.shape
    rays = lam.shape[0]
    n = grad.shape[0] // rays
    dx = dweight = dbias = dlam = None
    factors: list[Tensor] | None = None
    At, Bc = A.transpose(1, 2).reshape(tasks * r, O), B.reshape(tasks * r, x.shape[1])  # (R, O), (R, K)
    common = grad.view(rays, n, O).sum(0) if shared and rays > 1 else grad  # summed over rays where x is shared
    if needs.x or needs.factors or needs.lam:
        U0 = grad @ At.t()  # (M*n, R)
        U = _scaled(U0, lam, tasks, shared=False)
        if shared and rays > 1:
            U = U.view(rays, n, tasks * r).sum(0)
        if needs.x:
            dx = U @ Bc if weight is None else (common @ weight).addmm_(U, Bc)
        if needs.factors:
            dAt = _scaled(S, lam, tasks, shared).t() @ grad  # (R, O)
            factors = [dAt.view(tasks, r, O).transpose(1, 2).contiguous(), (U.t() @ x).view_as(B)]
        if needs.lam:
            wide = opmath_dtype(grad.dtype)
            R = tasks * r
            products = S.to(wide).view(1 if shared else rays, n, R) * U0.to(wide).view(rays, n, R)
            dlam = products.sum(1).view(rays, tasks, r).sum(2).to(lam.dtype)
    if needs.weight:
        dweight = common.t() @ x
    if needs.bias:
        dbias = common.sum(0) if bias_dims == 1 else bias_gradient(grad, rays, bias_dims)
    return dx, dweight, dbias, factors, dlam


def _ray(t: Tensor, m: int, rays: int, shared: bool = False) -> Tensor:
    """The rows of ray m; all rows of a shared tensor."""
    n = t.shape[0] // rays
    return t if shared else t[m * n : (m + 1) * n]


def merged_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, factors: Factors, lam: Tensor, shared: bool
) -> Tensor:
    rays = lam.shape[0]
    n = x.shape[0] if shared else x.shape[0] // rays
    y = x.new_empty(rays * n, factors.shape[0])
    for m in range(rays):
        torch.mm(_ray(x, m, rays, shared), factors.merged(weight, lam[m]).t(), out=_ray(y, m, rays))
    return add_bias_(y, bias, rays)


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
    grad, rays = grad.contiguous(), lam.shape[0]
    dx = torch.zeros_like(x, memory_format=torch.contiguous_format) if needs.x else None
    sums = WeightGradients(factors, lam, needs)
    for m in range(rays):
        rows = _ray(grad, m, rays)
        if dx is not None:
            _ray(dx, m, rays, shared).addmm_(rows, factors.merged(weight, lam[m]))
        if sums.wanted:
            sums.add_ray(m, rows.t() @ _ray(x, m, rays, shared))
    dbias = bias_gradient(grad, rays, bias_dims) if needs.bias else None
    dweight, dfactors, dlam = sums.results()
    return dx, dweight, dbias, dfactors, dlam


def _coefficients(weight: Tensor | None, lam: Tensor, dtype: torch.dtype) -> Tensor:
    """lam (M, T) -> (M, T+1) with a leading column of ones for the common part; (M, T) without one."""
    lam = lam.to(dtype)
    return lam if weight is None else torch.cat([lam.new_ones(lam.shape[0], 1), lam], dim=1)


def _elements(weight: Tensor | None, factors: Factors) -> Tensor:
    """(E, O, K) with E = T+1, or T without a common part."""
    deltas = factors.deltas()
    return deltas if weight is None else torch.cat([weight[None], deltas])


def basis_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, factors: Factors, lam: Tensor, shared: bool
) -> Tensor:
    rays = lam.shape[0]
    elements = _elements(weight, factors)
    E, O = elements.shape[:2]
    wide = opmath_dtype(x.dtype)
    c = _coefficients(weight, lam, wide)
    n = x.shape[0] if shared else x.shape[0] // rays
    z = (x @ elements.reshape(E * O, -1).t()).to(wide).view(1 if shared else rays, n, E, O)
    y = torch.einsum("me,mneo->mno", c, z.expand(rays, -1, -1, -1)).to(x.dtype)
    return add_bias_(y.reshape(rays * n, O).contiguous(), bias, rays)


def basis_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    factors: Factors,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    grad, rays = grad.contiguous(), lam.shape[0]
    elements = _elements(weight, factors)
    E, O = elements.shape[:2]
    wide = opmath_dtype(x.dtype)
    c = _coefficients(weight, lam, wide)
    n = grad.shape[0] // rays
    g = grad.to(wide).view(rays, n, O)
    gz = torch.einsum("me,mno->neo" if shared else "me,mno->mneo", c, g)  # gradient of the E products
    gz = gz.to(x.dtype).reshape(x.shape[0], E * O)
    dx = gz @ elements.reshape(E * O, -1) if needs.x else None
    dweight = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.weight or needs.factors:
        delements = (gz.t() @ x).view_as(elements)
        if needs.weight:
            dweight = delements[0].clone()
        if needs.factors:
            into = factors.new_gradients()
            factors.pull_deltas(delements[0 if weight is None else 1 :], into)
            dfactors = factors.finish(into)
    if needs.lam:
        z = (x @ factors.deltas().reshape(-1, x.shape[1]).t()).to(wide)
        z = z.view(1 if shared else rays, n, factors.tasks, O).expand(rays, -1, -1, -1)
        dlam = torch.einsum("mno,mnto->mt", g, z).to(lam.dtype)
    dbias = bias_gradient(grad, rays, bias_dims) if needs.bias else None
    return dx, dweight, dbias, dfactors, dlam


def _merged_low_rank(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, None]:
    return merged_forward(x, weight, bias, LowRank(A, B, (A.shape[1], B.shape[2])), lam, shared), None


def _merged_low_rank_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    S: None,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    factors = LowRank(A, B, (A.shape[1], B.shape[2]))
    return merged_backward(grad, x, weight, factors, lam, bias_dims, shared, needs)


def _on_dense(plan: Callable[..., Any], deltas: int) -> Callable[..., Any]:
    """A plan for deltas of either kind as one that takes the tensor D at position ``deltas``."""

    def planned(*arguments: Any) -> Any:
        return plan(*arguments[:deltas], Dense(arguments[deltas]), *arguments[deltas + 1 :])

    return planned


LOW_RANK = {
    "factored": (factored_forward, factored_backward),
    "merged": (_merged_low_rank, _merged_low_rank_backward),
}
DENSE = {
    "merged": (_on_dense(merged_forward, 3), _on_dense(merged_backward, 3)),
    "basis": (_on_dense(basis_forward, 3), _on_dense(basis_backward, 3)),
}
