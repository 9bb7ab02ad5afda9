"""The native ``factored`` plan of `conv2d`: S = X * B by one small convolution of all rows, Y = X * W + (S o Lam) A^T.

A map in channels_last is a matrix, positions by channels, so that the low-rank part is what it is in `linear`: skinny
passes in C++, the base map read or written once. The convolutions are tiled ones where a kernel meets many positions,
else oneDNN's, which needs no packing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager import conv as eager_conv
from palora_kernels.eager.conv import Geometry
from palora_kernels.eager.factors import Factors, LowRank, Needs
from palora_kernels.eager.linear import Gradients

CL = torch.channels_last


def rows_of(maps: Tensor) -> Tensor:
    """(P, C, H, W) in channels_last -> (P*H*W, C), a view."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def maps_of(rows: Tensor, like: Tensor) -> Tensor:
    """(P*H*W, C) -> (P, C, H, W) in channels_last, with the positions of ``like``."""
    return rows.view(-1, like.shape[2], like.shape[3], rows.shape[1]).permute(0, 3, 1, 2)


def _tiles(x: Tensor, kernel: Tensor, positions: int) -> bool:
    """Packing a kernel costs about what 500 positions cost."""
    return x.element_size() >= 4 and (positions >= 512 or kernel.numel() < 100_000)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, conv: Geometry, out: Tensor | None = None) -> Tensor:
    """One convolution of channels_last tensors, into ``out`` if it is given."""
    size = conv.output_size(x, kernel.shape[2:])  # type: ignore[arg-type]
    if not _tiles(x, kernel, x.shape[0] * size[0] * size[1]):
        y = conv.forward(x, kernel, bias).contiguous(memory_format=CL)
        return y if out is None else out.copy_(y)
    y = eager_conv._empty(x, [x.shape[0], kernel.shape[0], *size], CL) if out is None else out
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    torch.ops.palora_native.tiled_conv.default(x, kernel, bias, *geometry, y)
    return y


def pull(
    grad: Tensor, x: Tensor, kernel: Tensor, conv: Geometry, need_x: bool, need_kernel: bool
) -> tuple[Tensor | None, Tensor]:
    """(dx or None, dkernel) of one convolution."""
    if not _tiles(x, kernel, grad.numel() // max(grad.shape[1], 1)):
        dx, dkernel, _ = conv.backward(grad, x, kernel, need_x, need_kernel)
        return (dx.contiguous(memory_format=CL) if need_x else None), dkernel
    into = torch.empty_like(x, memory_format=CL) if need_x else None
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    dkernel, _ = torch.ops.palora_native.tiled_conv_backward.default(
        grad, x, kernel, *geometry, need_kernel, False, into
    )
    return into, dkernel


def _filters(factors: LowRank) -> Tensor:
    """B as R filters in channels_last."""
    return factors.B.view(-1, *factors.shape[1:]).to(factors.dtype).contiguous(memory_format=CL)


def _out_side(factors: LowRank) -> Tensor:
    """A (T, O, r), as the argument was."""
    return factors.A.view(factors.p, factors.tasks, factors.r).transpose(0, 1).to(factors.dtype)


def factored_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    assert isinstance(factors, LowRank)
    if layout != CL:
        return eager_conv.factored_forward(x, weight, bias, factors, lam, shared, conv, layout)
    rays, x = lam.shape[0], x.contiguous(memory_format=CL)
    S = convolve(x, _filters(factors), None, conv)
    base: Tensor | None = None
    common = bias if bias is not None and bias.dim() == 1 and weight is not None else None
    if weight is not None:
        base = convolve(x, weight.contiguous(memory_format=CL), common, conv)
    if base is not None and not (shared and rays > 1):
        y = base
    else:
        samples = x.shape[0] * rays if shared else x.shape[0]
        y = eager_conv._empty(x, [samples, factors.shape[0], *S.shape[2:]], CL)
    torch.ops.palora_native.low_rank_add.default(
        None if base is None else rows_of(base), rows_of(S), _out_side(factors), lam, shared, rows_of(y)
    )
    if bias is not None and common is None:
        per_ray = bias.expand(rays, -1) if bias.dim() == 1 else bias
        eager_conv._by_ray(y, rays).add_(per_ray[:, None, :, None, None])
    return y


def factored_backward(
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
    assert isinstance(factors, LowRank)
    if layout != CL:
        return eager_conv.factored_backward(grad, x, weight, factors, lam, bias_dims, shared, needs, conv, layout)
    x, grad = x.contiguous(memory_format=CL), grad.contiguous(memory_format=CL)
    filters = _filters(factors)
    S = convolve(x, filters, None, conv)  # recomputed, not kept
    wanted = [
        weight is not None and (needs.weight or needs.x),
        needs.factors or needs.x,
        needs.factors,
        needs.lam,
        needs.bias and bias_dims == 1,
    ]
    common, U, dA, dlam, db = torch.ops.palora_native.low_rank_pull.default(
        rows_of(grad), rows_of(S), _out_side(factors), lam, shared, wanted
    )
    dx = dweight = None
    factor_gradients: list[Tensor] | None = None
    if wanted[0]:
        assert weight is not None
        kernel = weight.contiguous(memory_format=CL)
        dx, dkernel = pull(maps_of(common, grad), x, kernel, conv, needs.x, needs.weight)
        dweight = dkernel.contiguous() if needs.weight else None
    if wanted[1]:
        part, dfilters = pull(maps_of(U, grad), x, filters, conv, needs.x, needs.factors)
        if part is not None:
            dx = part if dx is None else dx.add_(part)
        if needs.factors:
            factor_gradients = [dA, dfilters.contiguous().view(factors.tasks, factors.r, factors.q)]
    dbias: Tensor | None = None
    if needs.bias:
        dbias = db if bias_dims == 1 else eager_conv._bias_gradient(grad, lam.shape[0], bias_dims)
    return dx, dweight, dbias, factor_gradients, dlam if needs.lam else None
