"""The CUDA plans of `linear` and `linear_delta`: the eager algorithms with their skinny parts in single kernels.

Up to `FUSED_RANK` inner columns, Y += (S o Lam) A^T costs less than reading Y once (about 20 multiply-adds a byte are
free on an A100 or H100); beyond, it is a product for the tensor cores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.factors import Dense, Factors, LowRank, Needs
from palora_kernels.eager.linear import Gradients, _coefficients
from palora_kernels.native.cuda import ops
from palora_kernels.native.cuda.factors import Merging
from palora_kernels.reference import opmath_dtype

FUSED_RANK = 32


def _bias_by_ray(bias: Tensor | None) -> Tensor | None:
    """(O,) or (M, O) -> (1, 1, O) or (M, 1, O)."""
    return bias if bias is None else bias.view(-1, 1, bias.shape[-1])


def _bias_gradient(grad: Tensor, rays: int, bias_dims: int) -> Tensor:
    """grad (M*n, O) -> (O,) or (M, O)."""
    groups = 1 if bias_dims == 1 else rays
    sums = ops.column_sums(grad.view(groups, grad.shape[0] // groups, grad.shape[1]))
    return (sums[0] if bias_dims == 1 else sums).to(grad.dtype)


def _weighed(S: Tensor, lam: Tensor, rows: int, over_rays: bool = False) -> Tensor:
    """S (P, R) -> S o Lam (rows, R)."""
    return ops.weighed(S[:, :, None], lam, samples=rows, over_rays=over_rays)[:, :, 0]


def _by_task(S: Tensor, tasks: int) -> Tensor:
    """S (P, R) -> (1, T, P, r), a view."""
    return S.unflatten(1, (tasks, S.shape[1] // tasks)).transpose(0, 1)[None]


def factored_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, Tensor]:
    """Returns Y (M*n, O) and S = X B^T (P, R), which the backward needs."""
    tasks, O, r = A.shape
    rays, P = lam.shape[0], x.shape[0]
    copies = rays if shared else 1
    S = x @ B.reshape(tasks * r, -1).t()
    base = None if weight is None else x @ weight.t()
    bias = _bias_by_ray(bias)
    y = base if base is not None and copies == 1 else x.new_empty(copies * P, O)
    if tasks * r <= FUSED_RANK:
        ops.update(
            y.view(copies, P, O),
            _by_task(S, tasks),
            A[None],
            lam,
            base=None if base is None else base[None],
            bias=bias,
            rows_per_ray=P if shared else P // rays,
        )
        return y, S
    scaled = _weighed(S, lam, copies * P).view(copies, P, -1)
    At = A.transpose(1, 2).reshape(1, tasks * r, O).expand(copies, -1, -1)
    if base is None:
        torch.bmm(scaled, At, out=y.view(copies, P, O))
    else:
        torch.baddbmm(base[None].expand(copies, P, O), scaled, At, out=y.view(copies, P, O))
    if bias is not None:
        y.view(rays, y.shape[0] // rays, O).add_(bias)
    return y, S


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
    tasks, O, r = A.shape
    rays, R = lam.shape[0], tasks * r
    grad = grad.contiguous()
    rows, n, over_rays = grad.shape[0], grad.shape[0] // rays, shared and rays > 1
    dx = dweight = dbias = dlam = None
    factors: list[Tensor] | None = None
    G = grad
    if over_rays and (needs.weight or (needs.x and weight is not None) or (needs.bias and bias_dims == 1)):
        G = ops.sum_over_rays(grad, rays)
    if needs.x or needs.factors or needs.lam:
        U0 = grad @ A.transpose(1, 2).reshape(R, O).t()
        if needs.x or needs.factors:
            U = _weighed(U0, lam, x.shape[0], over_rays)
        if needs.x:
            dx = _gradient_of_x(G, weight, U, B)
        if needs.factors:
            dAt = _weighed(S, lam, rows).t() @ grad  # (R, O)
            dA = dAt.view(tasks, r, O).transpose(1, 2).contiguous()
            factors = [dA, (U.t() @ x).view(tasks, r, -1)]
        if needs.lam:
            stored = S.view(1 if over_rays else rays, n, R)
            dlam = ops.column_sums(U0.view(rays, n, R), stored).view(rays, tasks, r).sum(2)
    if needs.weight:
        dweight = G.t() @ x
    if needs.bias:
        dbias = _bias_gradient(G if bias_dims == 1 else grad, rays, bias_dims)
    return dx, dweight, dbias, factors, dlam


def _gradient_of_x(G: Tensor, weight: Tensor | None, U: Tensor, B: Tensor) -> Tensor:
    """dX = G W + U B: G (P, O), U (P, R), B (T, r, K)."""
    tasks, r, K = B.shape
    if tasks * r > FUSED_RANK:
        flat = B.reshape(tasks * r, K)
        return U @ flat if weight is None else (G @ weight).addmm_(U, flat)
    dx = U.new_empty(U.shape[0], K) if weight is None else G @ weight
    base = None if weight is None else dx[None]
    ops.update(dx[None], _by_task(U, tasks), B.transpose(1, 2)[None], None, base=base)
    return dx


def _rows_by_ray(x: Tensor, rays: int, shared: bool) -> Tensor:
    """(P, K) -> (M, n, K), a view."""
    return x[None].expand(rays, -1, -1) if shared else x.unflatten(0, (rays, x.shape[0] // rays))


def _merged_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, factors: Factors, lam: Tensor, shared: bool
) -> Tensor:
    rays = lam.shape[0]
    weights = Merging(factors, lam).weights(weight).transpose(1, 2)
    rows = _rows_by_ray(x, rays, shared)
    bias = _bias_by_ray(bias)
    y = torch.bmm(rows, weights) if bias is None else torch.baddbmm(bias, rows, weights)
    return y.view(-1, weights.shape[2])


def _merged_backward(
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
    grad = grad.contiguous()
    by_ray = _rows_by_ray(grad, rays, False)
    merging = Merging(factors, lam)
    dx = dbias = None
    if needs.x:
        dx = torch.bmm(by_ray, merging.weights(weight)).view(-1, x.shape[1])
        dx = ops.sum_over_rays(dx, rays) if shared and rays > 1 else dx
    dweight = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.weight or needs.factors or needs.lam:
        grads = torch.bmm(by_ray.transpose(1, 2), _rows_by_ray(x, rays, shared))
        dweight, dfactors, dlam = merging.pull(grads, needs)
    if needs.bias:
        dbias = _bias_gradient(grad, rays, bias_dims)
    return dx, dweight, dbias, dfactors, dlam


def merged_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, A: Tensor, B: Tensor, lam: Tensor, shared: bool
) -> tuple[Tensor, None]:
    factors = LowRank(A, B, (A.shape[1], B.shape[2]))
    return _merged_forward(x, weight, bias, factors, lam, shared), None


def merged_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    S: Tensor | None,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    factors = LowRank(A, B, (A.shape[1], B.shape[2]))
    return _merged_backward(grad, x, weight, factors, lam, bias_dims, shared, needs)


def dense_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, D: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    return _merged_forward(x, weight, bias, Dense(D), lam, shared)


def dense_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    D: Tensor,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
) -> Gradients:
    return _merged_backward(grad, x, weight, Dense(D), lam, bias_dims, shared, needs)


def _by_element(z: Tensor, groups: int, E: int) -> Tensor:
    """z (P, E*O) -> (groups, E, P/groups, O), a view."""
    rows = z.shape[0] // groups
    return z.view(groups, rows, E, z.shape[1] // E).transpose(1, 2)


def basis_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, D: Tensor, lam: Tensor, shared: bool
) -> Tensor:
    """The T+1 products as one, then one pass that combines them per ray."""
    rays, O = lam.shape[0], D.shape[1]
    elements = D if weight is None else torch.cat([weight[None], D])
    E, c = elements.shape[0], _coefficients(weight, lam, opmath_dtype(x.dtype))  # (M, E)
    z = _by_element(x @ elements.reshape(E * O, -1).t(), 1 if shared else rays, E)
    n = z.shape[2]
    y = x.new_empty(rays * n, O)
    out = y.view(1, rays, n, O) if shared else y.view(rays, 1, n, O)
    if bias is not None and bias.dim() == 2:
        bias = bias[None, :, None] if shared else bias[:, None, None]
    elif bias is not None:
        bias = bias[None, None, None]
    ops.combine(out, z, c[None] if shared else c[:, None], bias=bias)
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
    rays, (T, O, K) = lam.shape[0], D.shape
    grad = grad.contiguous()
    n = grad.shape[0] // rays
    elements = D if weight is None else torch.cat([weight[None], D])
    E, c = elements.shape[0], _coefficients(weight, lam, opmath_dtype(x.dtype))
    dx = dweight = dbias = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.x or needs.weight or needs.factors:
        gz = x.new_empty(x.shape[0], E * O)
        g = grad.view(1, rays, n, O) if shared else grad.view(rays, 1, n, O)
        ops.combine(_by_element(gz, 1 if shared else rays, E), g, c.t()[None] if shared else c[:, :, None])
        if needs.x:
            dx = gz @ elements.reshape(E * O, K)
        if needs.weight or needs.factors:
            delements = (gz.t() @ x).view(E, O, K)
            dweight = delements[0].clone() if needs.weight else None
            dfactors = [delements[E - T :].clone()] if needs.factors else None
    if needs.lam:
        z = _by_element(x @ D.reshape(T * O, K).t(), 1 if shared else rays, T)
        dlam = ops.dots(grad.view(rays, n, O), z)
    if needs.bias:
        dbias = _bias_gradient(grad, rays, bias_dims)
    return dx, dweight, dbias, dfactors, dlam


LOW_RANK = {
    "factored": (factored_forward, factored_backward),
    "merged": (merged_forward, merged_backward),
}
DENSE = {"merged": (dense_forward, dense_backward), "basis": (basis_forward, basis_backward)}
