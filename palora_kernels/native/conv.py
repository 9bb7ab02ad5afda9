"""The native plans of `conv2d` and `conv2d_delta`.

``direct`` serves an input that all rays share (a network's first layer): T+1 convolutions per output row (T where the
coefficients of every ray have one sum), combined into M rows while they are in cache. ``tiled`` merges ray by ray and
convolves in channels_last with register tiles, into the rows of the result at once. ``merged`` is the eager plan with
merging and pulling back in C++; its convolutions are oneDNN's. `appended` and `basis` hold the other two.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from palora_kernels.eager import conv as eager_conv
from palora_kernels.eager.conv import Geometry, _bias_of, _place, _ray
from palora_kernels.eager.factors import Factors, LowRank, Needs, WeightGradients
from palora_kernels.eager.linear import Gradients
from palora_kernels.native.appended import factored_backward, factored_forward
from palora_kernels.native.basis import Basis, conv_backward, conv_forward
from palora_kernels.native.factors import NativeGradients, NativeLowRank


def merged_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    if not isinstance(factors, LowRank):
        return eager_conv.merged_forward(x, weight, bias, factors, lam, shared, conv, layout)
    rays, native = lam.shape[0], NativeLowRank(factors, layout)
    x, base = x.contiguous(memory_format=layout), native.base(weight)
    n = x.shape[0] if shared else x.shape[0] // rays
    size = conv.output_size(x, factors.shape[2:])  # type: ignore[arg-type]
    y = eager_conv._empty(x, [rays * n, factors.shape[0], *size], layout)
    for m in range(rays):
        part = conv.forward(_ray(x, m, rays, shared), native.merged_onto(base, lam[m]), _bias_of(bias, m))
        if rays == 1:
            return part.contiguous(memory_format=layout)
        _ray(y, m, rays).copy_(part)
    return y


def merged_backward(
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
    if not isinstance(factors, LowRank):
        return eager_conv.merged_backward(grad, x, weight, factors, lam, bias_dims, shared, needs, conv, layout)
    rays, native = lam.shape[0], NativeLowRank(factors, layout)
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    base, sums = native.base(weight), NativeGradients(native, lam, needs)
    dx: Tensor | None = None
    biases: list[Tensor] = []
    for m in range(rays):
        dx_m, dkernel, dbias_m = conv.backward(
            _ray(grad, m, rays),
            _ray(x, m, rays, shared),
            native.merged_onto(base, lam[m]),
            needs.x,
            sums.wanted,
            needs.bias,
        )
        if sums.wanted:
            sums.add_ray(m, dkernel)
        if needs.x:
            dx = _place(dx, dx_m, x, m, rays, shared, layout)
        if needs.bias:
            biases.append(dbias_m)
    dbias: Tensor | None = None
    if needs.bias:
        dbias = torch.stack(biases) if bias_dims == 2 else torch.stack(biases).sum(0)
    dweight, dfactors, dlam = sums.results()
    return dx, dweight, dbias, dfactors, dlam


def _kernels(factors: Factors, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
    """lam_m (T,) -> ray m's kernel in channels_last."""
    if isinstance(factors, NativeLowRank):
        base = factors.base(weight)
        return lambda lam_m: factors.merged_onto(base, lam_m)
    return lambda lam_m: factors.merged(weight, lam_m).contiguous(memory_format=torch.channels_last)


def tiled_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    rays = lam.shape[0]
    if isinstance(factors, LowRank):
        factors = NativeLowRank(factors, layout)
    kernel, x = _kernels(factors, weight), x.contiguous(memory_format=layout)
    size = conv.output_size(x, factors.shape[2:])  # type: ignore[arg-type]
    y = eager_conv._empty(x, [x.shape[0], factors.shape[0], *size], layout)
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    bias = None if bias is None else bias.contiguous()
    for m in range(rays):
        torch.ops.palora_native.tiled_conv.default(
            _ray(x, m, rays), kernel(lam[m]), _bias_of(bias, m), *geometry, _ray(y, m, rays)
        )
    return y


def tiled_backward(
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
    rays = lam.shape[0]
    sums: NativeGradients | WeightGradients
    if isinstance(factors, LowRank):
        factors = NativeLowRank(factors, layout)
        sums = NativeGradients(factors, lam, needs)
    else:
        sums = WeightGradients(factors, lam, needs)
    kernel = _kernels(factors, weight)
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    dx = torch.empty_like(x, memory_format=layout) if needs.x else None
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    biases: list[Tensor] = []
    for m in range(rays):
        dkernel, dbias_m = torch.ops.palora_native.tiled_conv_backward.default(
            _ray(grad, m, rays),
            _ray(x, m, rays),
            kernel(lam[m]),
            *geometry,
            sums.wanted,
            needs.bias,
            None if dx is None else _ray(dx, m, rays),
        )
        if sums.wanted:
            sums.add_ray(m, dkernel)
        biases.append(dbias_m)
    dbias: Tensor | None = None
    if needs.bias:
        dbias = torch.stack(biases) if bias_dims == 2 else torch.stack(biases).sum(0)
    dweight, dfactors, dlam = sums.results()
    return dx, dweight, dbias, dfactors, dlam


def direct_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    basis = Basis.of(weight, lam, x.dtype)
    y: Tensor = torch.ops.palora_native.basis_conv.default(
        x, torch.stack(basis.elements(factors.deltas())), basis.c, bias, conv.stride, conv.padding, conv.dilation
    )
    return y.contiguous(memory_format=layout)


def direct_backward(
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
    if needs.x:  # a first layer needs no gradient of its input; where one does, all comes from the kernels of the rays
        return merged_backward(grad, x, weight, factors, lam, bias_dims, shared, needs, conv, layout)
    rays = lam.shape[0]
    basis = Basis.of(weight, lam, x.dtype)
    # dlam[m, t] = <dK_m, D_t> and a bias per ray need every ray's kernel gradient; the rest only E combinations.
    by_ray = needs.lam or bias_dims == 2
    combinations = torch.eye(rays, dtype=basis.c.dtype) if by_ray else basis.c.t()
    if weight is None and not by_ray:
        combinations = torch.cat([basis.c.new_ones(1, rays), combinations])  # the sum over rays, for the bias
    dkernels, sums = torch.ops.palora_native.basis_conv_backward.default(
        grad, x, combinations, list(factors.shape[2:]), conv.stride, conv.padding, conv.dilation
    )
    dlam: Tensor | None = None
    dbias: Tensor | None = None
    if by_ray:
        if needs.lam:
            deltas = factors.deltas().to(basis.c.dtype)
            dlam = (dkernels.flatten(1) @ deltas.flatten(1).t()).to(lam.dtype)
        dbias = sums if bias_dims == 2 else sums.sum(0)
        dkernels = torch.tensordot(basis.c.t(), dkernels, dims=1)
    elif weight is None:
        dbias, dkernels = sums[0], dkernels[1:]
    else:
        dbias = basis.common(sums)
    dfactors: list[Tensor] | None = None
    if needs.factors:
        into = factors.new_gradients()
        factors.pull_deltas(basis.deltas(dkernels), into)
        dfactors = factors.finish(into)
    dweight = basis.common(dkernels).to(x.dtype) if needs.weight and weight is not None else None
    return None, dweight, dbias.to(x.dtype) if needs.bias else None, dfactors, dlam


CONV = {
    **eager_conv.CONV,
    "merged": (merged_forward, merged_backward),
    "basis": (conv_forward, conv_backward),
    "factored": (factored_forward, factored_backward),
    "tiled": (tiled_forward, tiled_backward),
    "direct": (direct_forward, direct_backward),
}
