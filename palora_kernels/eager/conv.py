"""Plans of convolutions; x, the gradient and the result lie in the layout of the call.

``merged`` forms ray m's kernel and convolves ray m's rows, one ray at a time. ``basis`` convolves with W and with every
D_t once and combines the T+1 outputs per ray: it pays where all rays share the input and the kernel is large.
``factored`` (matricised low-rank kernels, one group) appends B's filters to W's in one convolution over all rows and
adds ``(S o Lam) A^T`` as a 1 x 1 product: it pays where rays have few rows each, as with a preference per sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import POINT, Call, Gradients, Needs
from palora_kernels.eager.linear import coefficients, elements
from palora_kernels.eager.merging import Merging
from palora_kernels.reference import opmath_dtype


def merged_forward(call: Call, merging: Merging | None = None) -> tuple[Tensor, None]:
    merging, conv = merging or Merging(call), call.geometry
    if call.rays == 1:
        return call.dense(conv.forward(call.x, merging.weight(0), call.bias_of(0))), None
    y = call.empty([call.samples, call.outputs, *call.output_size])
    for m in range(call.rays):
        call.rows(y, m).copy_(conv.forward(call.inputs(call.x, m), merging.weight(m), call.bias_of(m)))
    return y, None


def merged_backward(call: Call, grad: Tensor, S: None, needs: Needs, merging: Merging | None = None) -> Gradients:
    merging = merging or Merging(call)
    dx: Tensor | None = None
    biases: list[Tensor] = []
    sums = merging.gradients(needs)
    for m in range(call.rays):
        rows = call.inputs(call.x, m)
        dx_m, dkernel, dbias_m = call.geometry.backward(
            call.rows(grad, m), rows, merging.weight(m), needs.x, needs.weights, needs.bias
        )
        if needs.weights:
            sums.add_ray(m, dkernel)
        if needs.x:
            dx = place(call, dx, dx_m, m)
        biases.append(dbias_m)
    return sums.results(dx, bias_of_rays(call, biases) if needs.bias else None)


def bias_of_rays(call: Call, biases: list[Tensor]) -> Tensor:
    """The gradient of the bias from those of every ray's."""
    return torch.stack(biases) if call.bias_dims == 2 else torch.stack(biases).sum(0)


def place(call: Call, dx: Tensor | None, dx_m: Tensor, m: int) -> Tensor:
    """Put ray m's input gradient into its rows of dx, or add it where all rays share the input."""
    if call.shared or call.rays == 1:
        return call.dense(dx_m) if dx is None else dx.add_(dx_m)
    if dx is None:
        dx = torch.empty_like(call.x, memory_format=call.layout)
    call.rows(dx, m).copy_(dx_m)
    return dx


def _flat(call: Call, t: Tensor, rays: int) -> Tensor:
    """t (M*n, C, H, W) -> (M, everything else in memory order), a view."""
    t = call.dense(t)
    if call.layout == torch.channels_last:
        t = t.permute(0, 2, 3, 1)
    return t.reshape(rays, -1)


def _unflat(call: Call, flat: Tensor, size: list[int]) -> Tensor:
    """The inverse of `_flat` for one (rows, C, H, W) block."""
    if call.layout == torch.channels_last:
        rows, C, H, W = size
        return flat.view(rows, H, W, C).permute(0, 3, 1, 2)
    return flat.view(size)


def basis_forward(call: Call) -> tuple[Tensor, None]:
    x, conv, common = call.x, call.geometry, call.common_bias
    c = call.lam.to(opmath_dtype(x.dtype))
    y = call.empty([call.samples, call.outputs, *call.output_size])
    if call.weight is not None:
        base = conv.forward(x, call.dense(call.weight), common)
        for m in range(call.rays):
            call.rows(y, m).copy_(call.inputs(base, m))
        del base
    else:
        y.zero_()
        if common is not None:
            y.add_(common[:, None, None])
    for t, delta in enumerate(call.factors.deltas()):
        z = conv.forward(x, call.dense(delta), None)
        for m in range(call.rays):
            call.rows(y, m).addcmul_(call.inputs(z, m), c[m, t].to(y.dtype))
        del z
    if call.bias is not None and common is None:
        call.by_ray(y).add_(call.bias[:, None, :, None, None])
    return y, None


def basis_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    wide = opmath_dtype(call.x.dtype)
    c, g = coefficients(call, wide), _flat(call, grad, call.rays)
    size = [call.x.shape[0], *grad.shape[1:]]
    dx: Tensor | None = None
    found: list[Tensor] = []
    want_kernel = needs.weight or needs.factors
    for e, element in enumerate(elements(call) if needs.x or want_kernel else ()):
        column = c[:, e].to(g.dtype)
        gz = _unflat(call, column @ g if call.shared else (column[:, None] * g).view(-1), size)
        dx_e, delement, _ = call.geometry.backward(gz, call.x, call.dense(element), needs.x, want_kernel)
        if needs.x:
            dx = call.dense(dx_e) if dx is None else dx.add_(dx_e)
        found.append(delement)
    dweight = found[0].contiguous() if needs.weight else None
    dfactors = call.factors.pull_deltas(torch.stack(found[-call.factors.tasks :])) if needs.factors else None
    dlam = _basis_lam_gradient(call, g) if needs.lam else None
    return Gradients(dx, dweight, None, dfactors, dlam)


def _basis_lam_gradient(call: Call, g: Tensor) -> Tensor:
    """dlam[m, t] = <G_m, Z_t>, with Z_t convolved again rather than kept since the forward."""
    wide = opmath_dtype(g.dtype)
    columns = []
    for delta in call.factors.deltas():
        z = _flat(call, call.geometry.forward(call.x, call.dense(delta), None), 1 if call.shared else call.rays)
        columns.append((g.to(wide) * z.to(wide)).sum(1))
    return torch.stack(columns, dim=1).to(call.lam.dtype)


def filters(call: Call) -> Tensor:
    """B as R kernels, (R, C, kh, kw)."""
    factors = call.low_rank
    return factors.given[1].reshape(-1, *factors.shape[1:])


def appended(weight: Tensor | None, call: Call) -> Tensor:
    """[W; B]: the O base kernels, if any, and B's R."""
    return filters(call) if weight is None else torch.cat([weight, filters(call)])


def _scaled(S: Tensor, call: Call, shared: bool) -> Tensor:
    """S (P, R, H, W) -> S o Lam (M*n, R, H, W)."""
    wide = S.to(opmath_dtype(S.dtype))
    columns = call.lam.to(wide.dtype).repeat_interleave(call.low_rank.r, dim=1)  # (M, R)
    wide = wide.repeat(call.rays, 1, 1, 1) if shared else wide
    return (wide * columns.repeat_interleave(wide.shape[0] // call.rays, 0)[:, :, None, None]).to(S.dtype)


def _point(call: Call) -> Tensor:
    """A as a 1 x 1 kernel, (O, R, 1, 1)."""
    return call.low_rank.A.to(call.x.dtype)[:, :, None, None]


def factored_forward(call: Call) -> tuple[Tensor, None]:
    weight, bias = call.weight, call.bias
    out = call.geometry.forward(call.x, call.dense(appended(weight, call)), None)
    base = 0 if weight is None else call.outputs
    y = POINT.forward(_scaled(out[:, base:], call, call.shared), _point(call), None)
    if weight is not None:
        y = y + (out[:, :base].repeat(call.rays, 1, 1, 1) if call.shared else out[:, :base])
    if bias is not None:
        per_row = bias[None] if bias.dim() == 1 else bias.repeat_interleave(y.shape[0] // call.rays, 0)
        y = y + per_row[:, :, None, None]
    return call.dense(y), None


def factored_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    factors, x, weight, A = call.low_rank, call.x, call.weight, _point(call)
    base = 0 if weight is None else call.outputs
    U0 = POINT.forward(grad, A.transpose(0, 1).contiguous(), None)  # (M*n, R, H, W)
    U, common = _scaled(U0, call, shared=False), grad
    if call.sums_rays:
        U, common = call.by_ray(U).sum(0), call.by_ray(grad).sum(0)
    stacked = U if weight is None else torch.cat([common, U], dim=1)
    want_kernel = needs.weight or needs.factors
    kernel = call.dense(appended(weight, call))
    dx, dkernel, _ = call.geometry.backward(stacked, x, kernel, needs.x, want_kernel)
    dweight = dkernel[:base].contiguous() if needs.weight else None
    dfactors: list[Tensor] | None = None
    dlam: Tensor | None = None
    if needs.factors or needs.lam:
        maps = call.geometry.forward(x, call.dense(filters(call)), None)  # S, computed again rather than kept
        if needs.factors:
            dA = POINT.backward(grad, _scaled(maps, call, call.shared), A, False, True)[1]
            dfactors = factors.finish([dA.flatten(1), dkernel[base:].flatten(1)])
        if needs.lam:
            wide = opmath_dtype(x.dtype)
            maps = maps.repeat(call.rays, 1, 1, 1) if call.shared else maps
            products = call.by_ray((maps.to(wide) * U0.to(wide)).sum((2, 3))).sum(1)
            dlam = products.view(call.rays, factors.tasks, factors.r).sum(2).to(call.lam.dtype)
    dbias = call.bias_gradient(grad) if needs.bias else None
    return Gradients(dx if needs.x else None, dweight, dbias, dfactors, dlam)


PLANS = {
    "merged": (merged_forward, merged_backward),
    "basis": (basis_forward, basis_backward),
    "factored": (factored_forward, factored_backward),
}
