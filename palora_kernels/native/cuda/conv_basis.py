"""The ``basis`` plan: W and every D_t convolved once, and one pass that combines the T+1 maps per ray.

Without groups the T+1 kernels are one kernel with (T+1)*O filters, so that one convolution reads the input once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.linear import coefficients, elements
from palora_kernels.native.cuda import ops
from palora_kernels.native.cuda.maps import Layout
from palora_kernels.reference import opmath_dtype


def _groups(call: Call) -> int:
    return 1 if call.shared else call.rays


def _convolve(call: Call, kernels: Tensor, bias: Tensor | None, kind: Layout) -> Tensor:
    """kernels (E, O, C, kh, kw) -> E maps as (groups, E, rows, columns); ``bias`` goes to the first."""
    E, O = kernels.shape[:2]
    if call.geometry.groups == 1:
        common = None if bias is None else torch.cat([bias, bias.new_zeros((E - 1) * O)])
        z = call.geometry.forward(call.x, call.dense(kernels.flatten(0, 1)), common)
        return kind.elements(kind.flat(z), _groups(call), E)
    maps = [
        call.geometry.forward(call.x, call.dense(kernel), bias if e == 0 else None) for e, kernel in enumerate(kernels)
    ]
    return torch.stack([kind.rays(kind.flat(z), _groups(call)) for z in maps], dim=1)


def basis_forward(call: Call) -> tuple[Tensor, None]:
    rays, O, kind = call.rays, call.outputs, Layout(call.layout)
    c = coefficients(call, opmath_dtype(call.x.dtype))  # (M, E)
    common = call.common_bias if call.weight is not None else None
    z = _convolve(call, elements(call), common, kind)
    height, width = call.output_size
    flat = kind.new(call.x, call.samples, O, height * width)
    out = kind.rays(flat, rays)[None] if call.shared else kind.rays(flat, rays)[:, None]
    rest = call.bias if common is None else None
    by_column: Tensor | None = None
    if rest is not None and kind.last:
        rest = rest.view(-1, 1, O)
        by_column = rest[None] if call.shared else rest[:, None]
    ops.combine(out, z, c[None] if call.shared else c[:, None], bias=by_column)
    y = kind.maps(flat, (height, width))
    if rest is not None and not kind.last:
        call.by_ray(y).add_(rest.view(-1, 1, O, 1, 1))
    return y, None


def basis_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    rays, kind = call.rays, Layout(call.layout)
    flat = kind.flat(grad)
    dx = dweight = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.x or needs.weight or needs.factors:
        dx, dkernels = _pull_combination(call, flat, (grad.shape[2], grad.shape[3]), needs, kind)
        dweight = dkernels[0].contiguous() if needs.weight else None
        if needs.factors:
            dfactors = call.factors.pull_deltas(torch.stack(dkernels[-call.factors.tasks :]))
    if needs.lam:
        dlam = ops.dots(kind.rays(flat, rays), _convolve(call, call.factors.deltas(), None, kind))
    dbias = kind.bias_gradient(flat, rays, call.bias_dims) if needs.bias else None
    return Gradients(dx, dweight, dbias, dfactors, dlam)


def _pull_combination(
    call: Call, flat: Tensor, size: tuple[int, int], needs: Needs, kind: Layout
) -> tuple[Tensor | None, list[Tensor]]:
    """dX and the gradients of the E kernels, from E combinations of the rays' gradients."""
    x, rays, O, kernels, groups = call.x, call.rays, call.outputs, elements(call), _groups(call)
    E, conv = kernels.shape[0], call.geometry
    c = coefficients(call, opmath_dtype(x.dtype))
    c = c.t()[None] if call.shared else c[:, :, None]
    g = kind.rays(flat, rays)[None] if call.shared else kind.rays(flat, rays)[:, None]
    want_kernel = needs.weight or needs.factors
    positions = size[0] * size[1]
    if conv.groups == 1:
        gz = kind.new(x, x.shape[0], E * O, positions)
        ops.combine(kind.elements(gz, groups, E), g, c)
        dx, dkernel, _ = conv.backward(kind.maps(gz, size), x, call.dense(kernels.flatten(0, 1)), needs.x, want_kernel)
        return (dx if needs.x else None), list(dkernel.chunk(E)) if want_kernel else []
    total: Tensor | None = None
    dkernels = []
    for e in range(E):
        part = kind.new(x, x.shape[0], O, positions)
        ops.combine(kind.rays(part, groups)[:, None], g, c[:, e : e + 1])
        dx, dkernel, _ = conv.backward(kind.maps(part, size), x, call.dense(kernels[e]), needs.x, want_kernel)
        if needs.x:
            total = dx if total is None else total.add_(dx)
        dkernels.append(dkernel)
    return total, dkernels
