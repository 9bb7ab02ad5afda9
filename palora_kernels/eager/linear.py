"""Plans of linear layers.

``factored`` keeps A and B apart, S = X B^T and Y = X W^T + (S o Lam) A^T: one stacked base product for all rays.
``merged`` forms W_m ray by ray. ``basis`` computes the T+1 products X W^T, X D_t^T once and combines them per ray.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.merging import Merging
from palora_kernels.reference import opmath_dtype


def add_bias_(y: Tensor, call: Call) -> Tensor:
    """y (M*n, O) += bias (O,) or, ray by ray, (M, O); in place."""
    if call.bias is not None and call.bias.dim() == 2:
        call.by_ray(y).add_(call.bias[:, None, :])
    elif call.bias is not None:
        y.add_(call.bias)
    return y


def scaled(S: Tensor, call: Call, shared: bool) -> Tensor:
    """S o Lam: S (P, R) -> (M*n, R), multiplied in float32 or wider, in S's dtype."""
    rays, tasks = call.lam.shape
    R = S.shape[1]
    n = S.shape[0] if shared else S.shape[0] // rays
    wide = S.to(opmath_dtype(S.dtype)).view(1 if shared else rays, n, tasks, R // max(tasks, 1))
    return (wide * call.lam.to(wide.dtype)[:, None, :, None]).to(S.dtype).view(rays * n, R)


def out_side(call: Call) -> Tensor:
    """A (T, O, r) -> (R, O)."""
    A, _ = call.low_rank.given
    return A.transpose(1, 2).reshape(A.shape[0] * A.shape[2], A.shape[1])


def in_side(call: Call) -> Tensor:
    """B (T, r, K) -> (R, K)."""
    _, B = call.low_rank.given
    return B.reshape(B.shape[0] * B.shape[1], B.shape[2])


def factored_forward(call: Call) -> tuple[Tensor, Tensor]:
    """S is X B^T (P, R)."""
    x, weight = call.x, call.weight
    S, At = x @ in_side(call).t(), out_side(call)
    rows = scaled(S, call, call.shared)
    if weight is None:
        return add_bias_(rows @ At, call), S
    common = call.common_bias
    base = x @ weight.t() if common is None else torch.addmm(common, x, weight.t())
    y = base.repeat(call.rays, 1) if call.sums_rays else base
    y.addmm_(rows, At)
    return (y if common is not None else add_bias_(y, call)), S


def factored_backward(call: Call, grad: Tensor, S: Tensor, needs: Needs) -> Gradients:
    x, rays, (tasks, r) = call.x, call.rays, (call.low_rank.tasks, call.low_rank.r)
    n, R = call.n, tasks * r
    dx = dweight = dbias = dlam = None
    factors: list[Tensor] | None = None
    At, B = out_side(call), in_side(call)
    common = call.by_ray(grad).sum(0) if call.sums_rays else grad  # summed over rays where x is shared
    if needs.x or needs.factors or needs.lam:
        U0 = grad @ At.t()  # (M*n, R)
        U = scaled(U0, call, shared=False)
        if call.sums_rays:
            U = U.view(rays, n, R).sum(0)
        if needs.x:
            dx = U @ B if call.weight is None else (common @ call.weight).addmm_(U, B)
        if needs.factors:
            dAt = scaled(S, call, call.shared).t() @ grad  # (R, O)
            dA = dAt.view(tasks, r, call.outputs).transpose(1, 2).contiguous()
            factors = [dA, (U.t() @ x).view_as(call.low_rank.given[1])]
        if needs.lam:
            wide = opmath_dtype(grad.dtype)
            products = S.to(wide).view(1 if call.shared else rays, n, R) * U0.to(wide).view(rays, n, R)
            dlam = products.sum(1).view(rays, tasks, r).sum(2).to(call.lam.dtype)
    if needs.weight:
        dweight = common.t() @ x
    if needs.bias and call.bias_dims == 1:
        dbias = common.sum(0)
    return Gradients(dx, dweight, dbias, factors, dlam)


def merged_forward(call: Call) -> tuple[Tensor, None]:
    y, merging = call.x.new_empty(call.samples, call.outputs), Merging(call)
    for m in range(call.rays):
        torch.mm(call.inputs(call.x, m), merging.weight(m).t(), out=call.rows(y, m))
    return add_bias_(y, call), None


def merged_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    dx = torch.zeros_like(call.x, memory_format=torch.contiguous_format) if needs.x else None
    merging = Merging(call)
    sums = merging.gradients(needs)
    for m in range(call.rays):
        rows = call.rows(grad, m)
        if dx is not None:
            call.inputs(dx, m).addmm_(rows, merging.weight(m))
        if needs.weights:
            sums.add_ray(m, rows.t() @ call.inputs(call.x, m))
    return sums.results(dx)


def coefficients(call: Call, dtype: torch.dtype) -> Tensor:
    """lam (M, T) -> (M, T+1) with a leading column of ones for the common part; (M, T) without one."""
    lam = call.lam.to(dtype)
    return lam if call.weight is None else torch.cat([lam.new_ones(lam.shape[0], 1), lam], dim=1)


def elements(call: Call) -> Tensor:
    """W, if there, and the deltas: (E, *weight.shape) with E = T+1, or T without a common part."""
    deltas = call.factors.deltas()
    return deltas if call.weight is None else torch.cat([call.weight[None], deltas])


def basis_forward(call: Call) -> tuple[Tensor, None]:
    rays, parts = call.rays, elements(call)
    E, O = parts.shape[:2]
    wide = opmath_dtype(call.x.dtype)
    z = (call.x @ parts.reshape(E * O, -1).t()).to(wide).view(1 if call.shared else rays, call.n, E, O)
    y = torch.einsum("me,mneo->mno", coefficients(call, wide), z.expand(rays, -1, -1, -1)).to(call.x.dtype)
    return add_bias_(y.reshape(call.samples, O).contiguous(), call), None


def basis_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    x, rays, shared, parts = call.x, call.rays, call.shared, elements(call)
    E, O = parts.shape[:2]
    wide = opmath_dtype(x.dtype)
    g = grad.to(wide).view(rays, call.n, O)
    gz = torch.einsum("me,mno->neo" if shared else "me,mno->mneo", coefficients(call, wide), g)  # of the E products
    gz = gz.to(x.dtype).reshape(x.shape[0], E * O)
    dx = gz @ parts.reshape(E * O, -1) if needs.x else None
    dweight = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.weight or needs.factors:
        dparts = (gz.t() @ x).view_as(parts)
        dweight = dparts[0].clone() if needs.weight else None
        dfactors = call.factors.pull_deltas(dparts[E - call.factors.tasks :]) if needs.factors else None
    if needs.lam:
        z = (x @ call.factors.deltas().reshape(-1, x.shape[1]).t()).to(wide)
        z = z.view(1 if shared else rays, call.n, call.factors.tasks, O).expand(rays, -1, -1, -1)
        dlam = torch.einsum("mno,mnto->mt", g, z).to(call.lam.dtype)
    return Gradients(dx, dweight, None, dfactors, dlam)


PLANS = {
    "factored": (factored_forward, factored_backward),
    "merged": (merged_forward, merged_backward),
    "basis": (basis_forward, basis_backward),
}
