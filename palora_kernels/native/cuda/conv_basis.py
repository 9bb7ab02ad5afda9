"""The ``basis`` plan: W and every D_t convolved once, and one pass that combines the T+1 maps per ray.

Without groups the T+1 kernels are one kernel with (T+1)*O filters, so that one convolution reads the input once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.conv import Geometry
from palora_kernels.eager.factors import Factors, Needs
from palora_kernels.eager.linear import Gradients, _coefficients
from palora_kernels.native.cuda import ops
from palora_kernels.native.cuda.maps import Layout
from palora_kernels.reference import opmath_dtype


def _convolve(
    x: Tensor, kernels: Tensor, bias: Tensor | None, conv: Geometry, kind: Layout, groups: int
) -> tuple[Tensor, tuple[int, int]]:
    """kernels (E, O, C, kh, kw) -> E maps as (groups, E, rows, columns) and their size; ``bias`` goes to the first."""
    E, O = kernels.shape[:2]
    if conv.groups == 1:
        common = None if bias is None else torch.cat([bias, bias.new_zeros((E - 1) * O)])
        z = conv.forward(x, kernels.flatten(0, 1).contiguous(memory_format=kind.format), common)
        return kind.elements(kind.flat(z), groups, E), (z.shape[2], z.shape[3])
    maps = [
        conv.forward(x, kernel.contiguous(memory_format=kind.format), bias if e == 0 else None)
        for e, kernel in enumerate(kernels)
    ]
    z = torch.stack([kind.rays(kind.flat(z), groups) for z in maps], dim=1)
    return z, (maps[0].shape[2], maps[0].shape[3])


def basis_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    rays, O, kind = lam.shape[0], factors.shape[0], Layout(layout)
    x = x.contiguous(memory_format=layout)
    kernels = factors.deltas() if weight is None else torch.cat([weight[None], factors.deltas()])
    c = _coefficients(weight, lam, opmath_dtype(x.dtype))  # (M, E)
    common = bias if bias is not None and bias.dim() == 1 and weight is not None else None
    z, size = _convolve(x, kernels, common, conv, kind, 1 if shared else rays)
    samples = x.shape[0] * (rays if shared else 1)
    flat = kind.new(x, samples, O, size[0] * size[1])
    out = kind.rays(flat, rays)[None] if shared else kind.rays(flat, rays)[:, None]
    rest = bias if common is None else None
    by_column: Tensor | None = None
    if rest is not None and kind.last:
        rest = rest.view(-1, 1, O)
        by_column = rest[None] if shared else rest[:, None]
    ops.combine(out, z, c[None] if shared else c[:, None], bias=by_column)
    y = kind.maps(flat, size)
    if rest is not None and not kind.last:
        y.unflatten(0, (rays, samples // rays)).add_(rest.view(-1, 1, O, 1, 1))
    return y


def basis_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    factors: Factors,
    lam: Tensor,
    bias_dims: int,
    shared: bool,
    needs: Needs,
    conv: Geometry,
    layout: torch.memory_format,
) -> Gradients:
    rays, kind = lam.shape[0], Layout(layout)
    x, flat = x.contiguous(memory_format=layout), kind.flat(grad)
    dx = dweight = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.x or needs.weight or needs.factors:
        dx, dkernels = _pull_combination(flat, grad, x, weight, factors, lam, shared, needs, conv, kind)
        first = 0 if weight is None else 1
        dweight = dkernels[0].contiguous() if needs.weight else None
        if needs.factors:
            into = factors.new_gradients()
            factors.pull_deltas(torch.stack(dkernels[first:]), into)
            dfactors = factors.finish(into)
    if needs.lam:
        z, _ = _convolve(x, factors.deltas(), None, conv, kind, 1 if shared else rays)
        dlam = ops.dots(kind.rays(flat, rays), z)
    dbias = kind.bias_gradient(flat, rays, bias_dims) if needs.bias else None
    return dx, dweight, dbias, dfactors, dlam


def _pull_combination(
    flat: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    needs: Needs,
    conv: Geometry,
    kind: Layout,
) -> tuple[Tensor | None, list[Tensor]]:
    """dX and the gradients of the E kernels, from E combinations of the rays' gradients."""
    rays, (O, size) = lam.shape[0], (grad.shape[1], (grad.shape[2], grad.shape[3]))
    kernels = factors.deltas() if weight is None else torch.cat([weight[None], factors.deltas()])
    E, groups = kernels.shape[0], 1 if shared else rays
    c = _coefficients(weight, lam, opmath_dtype(x.dtype))
    c = c.t()[None] if shared else c[:, :, None]
    g = kind.rays(flat, rays)[None] if shared else kind.rays(flat, rays)[:, None]
    want_kernel = needs.weight or needs.factors
    positions = size[0] * size[1]
    if conv.groups == 1:
        gz = kind.new(x, x.shape[0], E * O, positions)
        ops.combine(kind.elements(gz, groups, E), g, c)
        kernel = kernels.flatten(0, 1).contiguous(memory_format=kind.format)
        dx, dkernel, _ = conv.backward(kind.maps(gz, size), x, kernel, needs.x, want_kernel)
        return (dx if needs.x else None), list(dkernel.chunk(E)) if want_kernel else []
    parts = [kind.new(x, x.shape[0], O, positions) for _ in range(E)]
    total: Tensor | None = None
    dkernels = []
    for e, part in enumerate(parts):
        ops.combine(kind.rays(part, groups)[:, None], g, c[:, e : e + 1])
        kernel = kernels[e].contiguous(memory_format=kind.format)
        dx, dkernel, _ = conv.backward(kind.maps(part, size), x, kernel, needs.x, want_kernel)
        if needs.x:
            total = dx if total is None else total.add_(dx)
        dkernels.append(dkernel)
    return total, dkernels
