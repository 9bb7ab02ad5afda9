"""The CUDA plans of linear layers: the eager algorithms with their skinny parts in single kernels.

Up to `FUSED_RANK` inner columns, Y += (S o Lam) A^T costs less than reading Y once (about 20 multiply-adds a byte are
free on an A100 or H100); beyond, it is a product for the tensor cores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.linear import coefficients, elements, in_side, out_side
from palora_kernels.native.cuda import ops
from palora_kernels.native.cuda.factors import Merging
from palora_kernels.reference import opmath_dtype

FUSED_RANK = 32


def _bias_by_ray(bias: Tensor | None) -> Tensor | None:
    """(O,) or (M, O) -> (1, 1, O) or (M, 1, O)."""
    return bias if bias is None else bias.view(-1, 1, bias.shape[-1])


def _bias_gradient(call: Call, grad: Tensor, bias_dims: int) -> Tensor:
    """grad (M*n, O), or (n, O) summed over rays -> (O,) or (M, O)."""
    groups = 1 if bias_dims == 1 else call.rays
    sums = ops.column_sums(grad.view(groups, grad.shape[0] // groups, grad.shape[1]))
    return (sums[0] if bias_dims == 1 else sums).to(grad.dtype)


def _weighed(S: Tensor, lam: Tensor, rows: int, over_rays: bool = False) -> Tensor:
    """S (P, R) -> S o Lam (rows, R)."""
    return ops.weighed(S[:, :, None], lam, samples=rows, over_rays=over_rays)[:, :, 0]


def _by_task(S: Tensor, tasks: int) -> Tensor:
    """S (P, R) -> (1, T, P, r), a view."""
    return S.unflatten(1, (tasks, S.shape[1] // tasks)).transpose(0, 1)[None]


def factored_forward(call: Call) -> tuple[Tensor, Tensor]:
    """S is X B^T (P, R)."""
    x, weight, (tasks, O) = call.x, call.weight, (call.low_rank.tasks, call.outputs)
    P, copies = x.shape[0], call.rays if call.shared else 1
    S = x @ in_side(call).t()
    base = None if weight is None else x @ weight.t()
    bias = _bias_by_ray(call.bias)
    y = base if base is not None and copies == 1 else x.new_empty(copies * P, O)
    if S.shape[1] <= FUSED_RANK:
        ops.update(
            y.view(copies, P, O),
            _by_task(S, tasks),
            call.low_rank.given[0][None],
            call.lam,
            base=None if base is None else base[None],
            bias=bias,
            rows_per_ray=call.n,
        )
        return y, S
    scaled = _weighed(S, call.lam, copies * P).view(copies, P, -1)
    At = out_side(call)[None].expand(copies, -1, -1)
    if base is None:
        torch.bmm(scaled, At, out=y.view(copies, P, O))
    else:
        torch.baddbmm(base[None].expand(copies, P, O), scaled, At, out=y.view(copies, P, O))
    if bias is not None:
        call.by_ray(y).add_(bias)
    return y, S


def factored_backward(call: Call, grad: Tensor, S: Tensor, needs: Needs) -> Gradients:
    x, weight, lam, rays, n = call.x, call.weight, call.lam, call.rays, call.n
    A, B = call.low_rank.given
    tasks, O, r = A.shape
    R, over_rays = tasks * r, call.sums_rays
    dx = dweight = dbias = dlam = None
    factors: list[Tensor] | None = None
    G = grad
    if over_rays and (needs.weight or (needs.x and weight is not None) or (needs.bias and call.bias_dims == 1)):
        G = ops.sum_over_rays(grad, rays)
    if needs.x or needs.factors or needs.lam:
        U0 = grad @ out_side(call).t()
        if needs.x or needs.factors:
            U = _weighed(U0, lam, x.shape[0], over_rays)
        if needs.x:
            dx = _gradient_of_x(G, weight, U, B)
        if needs.factors:
            dAt = _weighed(S, lam, grad.shape[0]).t() @ grad  # (R, O)
            dA = dAt.view(tasks, r, O).transpose(1, 2).contiguous()
            factors = [dA, (U.t() @ x).view(tasks, r, -1)]
        if needs.lam:
            stored = S.view(1 if over_rays else rays, n, R)
            dlam = ops.column_sums(U0.view(rays, n, R), stored).view(rays, tasks, r).sum(2)
    if needs.weight:
        dweight = G.t() @ x
    if needs.bias:
        dbias = _bias_gradient(call, G if call.bias_dims == 1 else grad, call.bias_dims)
    return Gradients(dx, dweight, dbias, factors, dlam)


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


def _rows_by_ray(call: Call) -> Tensor:
    """x as (M, n, K), a view."""
    return call.x[None].expand(call.rays, -1, -1) if call.shared else call.by_ray(call.x)


def merged_forward(call: Call) -> tuple[Tensor, None]:
    weights = Merging(call).weights().transpose(1, 2)
    rows, bias = _rows_by_ray(call), _bias_by_ray(call.bias)
    y = torch.bmm(rows, weights) if bias is None else torch.baddbmm(bias, rows, weights)
    return y.view(-1, call.outputs), None


def merged_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    by_ray, merging = call.by_ray(grad), Merging(call)
    dx = dbias = None
    if needs.x:
        dx = torch.bmm(by_ray, merging.weights()).view(-1, call.x.shape[1])
        dx = ops.sum_over_rays(dx, call.rays) if call.sums_rays else dx
    if needs.bias:
        dbias = _bias_gradient(call, grad, call.bias_dims)
    if not needs.weights:
        return Gradients(dx, bias=dbias)
    return merging.pull(torch.bmm(by_ray.transpose(1, 2), _rows_by_ray(call)), needs)._replace(x=dx, bias=dbias)


def _by_element(z: Tensor, groups: int, E: int) -> Tensor:
    """z (P, E*O) -> (groups, E, P/groups, O), a view."""
    rows = z.shape[0] // groups
    return z.view(groups, rows, E, z.shape[1] // E).transpose(1, 2)


def _groups(call: Call) -> int:
    return 1 if call.shared else call.rays


def basis_forward(call: Call) -> tuple[Tensor, None]:
    """The T+1 products as one, then one pass that combines them per ray."""
    rays, n, O, bias, parts = call.rays, call.n, call.outputs, call.bias, elements(call)
    E, c = parts.shape[0], coefficients(call, opmath_dtype(call.x.dtype))  # (M, E)
    z = _by_element(call.x @ parts.reshape(E * O, -1).t(), _groups(call), E)
    y = call.x.new_empty(rays * n, O)
    out = y.view(1, rays, n, O) if call.shared else y.view(rays, 1, n, O)
    if bias is not None and bias.dim() == 2:
        bias = bias[None, :, None] if call.shared else bias[:, None, None]
    elif bias is not None:
        bias = bias[None, None, None]
    ops.combine(out, z, c[None] if call.shared else c[:, None], bias=bias)
    return y, None


def basis_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    x, rays, n, parts, D = call.x, call.rays, call.n, elements(call), call.factors.deltas()
    T, O, K = D.shape
    E, c = parts.shape[0], coefficients(call, opmath_dtype(x.dtype))
    dx = dweight = dbias = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.x or needs.weight or needs.factors:
        gz = x.new_empty(x.shape[0], E * O)
        g = grad.view(1, rays, n, O) if call.shared else grad.view(rays, 1, n, O)
        ops.combine(_by_element(gz, _groups(call), E), g, c.t()[None] if call.shared else c[:, :, None])
        if needs.x:
            dx = gz @ parts.reshape(E * O, K)
        if needs.weight or needs.factors:
            dparts = (gz.t() @ x).view(E, O, K)
            dweight = dparts[0].clone() if needs.weight else None
            dfactors = [dparts[E - T :].clone()] if needs.factors else None
    if needs.lam:
        dlam = ops.dots(grad.view(rays, n, O), _by_element(x @ D.reshape(T * O, K).t(), _groups(call), T))
    if needs.bias:
        dbias = _bias_gradient(call, grad, call.bias_dims)
    return Gradients(dx, dweight, dbias, dfactors, dlam)


PLANS = {
    "factored": (factored_forward, factored_backward),
    "merged": (merged_forward, merged_backward),
    "basis": (basis_forward, basis_backward),
}
