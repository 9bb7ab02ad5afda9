"""The native plans of convolutions.

``direct`` serves an input that all rays share (a network's first layer): T+1 convolutions per output row (T where the
coefficients of every ray have one sum), combined into M rows while they are in cache. ``tiled`` merges ray by ray and
convolves in channels_last with register tiles, into the rows of the result at once. ``merged`` is the eager plan with
merging and pulling back in C++; its convolutions are oneDNN's. `conv_factored` and `basis` hold the other two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager import conv as eager_conv
from palora_kernels.native.basis import Basis, conv_backward, conv_forward
from palora_kernels.native.conv_factored import factored_backward, factored_forward, geometry_of
from palora_kernels.native.factors import NativeMerging


def merged_forward(call: Call) -> tuple[Tensor, None]:
    return eager_conv.merged_forward(call, NativeMerging(call))


def merged_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    return eager_conv.merged_backward(call, grad, S, needs, NativeMerging(call))


def tiled_forward(call: Call) -> tuple[Tensor, None]:
    merging = NativeMerging(call)
    y = call.empty([call.samples, call.outputs, *call.output_size])
    for m in range(call.rays):
        bias = call.bias_of(m)
        torch.ops.palora_native.tiled_conv.default(
            call.rows(call.x, m),
            merging.weight(m),
            None if bias is None else bias.contiguous(),
            *geometry_of(call),
            call.rows(y, m),
        )
    return y, None


def tiled_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    merging = NativeMerging(call)
    sums = merging.gradients(needs)
    dx = torch.empty_like(call.x, memory_format=call.layout) if needs.x else None
    biases: list[Tensor] = []
    for m in range(call.rays):
        dkernel, dbias_m = torch.ops.palora_native.tiled_conv_backward.default(
            call.rows(grad, m),
            call.rows(call.x, m),
            merging.weight(m),
            *geometry_of(call),
            needs.weights,
            needs.bias,
            None if dx is None else call.rows(dx, m),
        )
        if needs.weights:
            sums.add_ray(m, dkernel)
        biases.append(dbias_m)
    return sums.results(dx, eager_conv.bias_of_rays(call, biases) if needs.bias else None)


def direct_forward(call: Call) -> tuple[Tensor, None]:
    basis = Basis.of(call)
    elements = torch.stack(basis.elements(call.factors.deltas()))
    y: Tensor = torch.ops.palora_native.basis_conv.default(call.x, elements, basis.c, call.bias, *geometry_of(call)[:3])
    return call.dense(y), None


def direct_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    if needs.x:  # a first layer needs no gradient of its input; where one does, all comes from the kernels of the rays
        return merged_backward(call, grad, S, needs)
    rays, weight, basis, factors = call.rays, call.weight, Basis.of(call), call.factors
    # dlam[m, t] = <dK_m, D_t> and a bias per ray need every ray's kernel gradient; the rest only E combinations.
    by_ray = needs.lam or call.bias_dims == 2
    combinations = torch.eye(rays, dtype=basis.c.dtype) if by_ray else basis.c.t()
    if weight is None and not by_ray:
        combinations = torch.cat([basis.c.new_ones(1, rays), combinations])  # the sum over rays, for the bias
    dkernels, sums = torch.ops.palora_native.basis_conv_backward.default(
        grad, call.x, combinations, list(factors.shape[2:]), *geometry_of(call)[:3]
    )
    dlam: Tensor | None = None
    if by_ray:
        if needs.lam:
            deltas = factors.deltas().to(basis.c.dtype)
            dlam = (dkernels.flatten(1) @ deltas.flatten(1).t()).to(call.lam.dtype)
        dbias = sums if call.bias_dims == 2 else sums.sum(0)
        dkernels = torch.tensordot(basis.c.t(), dkernels, dims=1)
    elif weight is None:
        dbias, dkernels = sums[0], dkernels[1:]
    else:
        dbias = basis.common(sums)
    dfactors = factors.pull_deltas(basis.deltas(dkernels)) if needs.factors else None
    dweight = basis.common(dkernels).to(call.x.dtype) if needs.weight and weight is not None else None
    return Gradients(None, dweight, dbias.to(call.x.dtype) if needs.bias else None, dfactors, dlam)


PLANS = {
    "merged": (merged_forward, merged_backward),
    "basis": (conv_forward, conv_backward),
    "factored": (factored_forward, factored_backward),
    "tiled": (tiled_forward, tiled_backward),
    "direct": (direct_forward, direct_backward),
}
