"""The native ``factored`` plan of convolutions: S = X * B by one small convolution of all rows, Y = X * W +
(S o Lam) A^T.

A map in channels_last is a matrix, positions by channels, so that the low-rank part is what it is in `linear`: skinny
passes in C++, the base map read or written once. The convolutions are tiled ones where a kernel meets many positions,
else oneDNN's, which needs no packing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager import conv as eager_conv

CL = torch.channels_last


def geometry_of(call: Call) -> tuple[Any, ...]:
    """As the operators of csrc/cpu take it."""
    conv = call.geometry
    return conv.stride, conv.padding, conv.dilation, conv.groups


def rows_of(maps: Tensor) -> Tensor:
    """(P, C, H, W) in channels_last -> (P*H*W, C), a view."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def maps_of(rows: Tensor, like: Tensor) -> Tensor:
    """(P*H*W, C) -> (P, C, H, W) in channels_last, with the positions of ``like``."""
    return rows.view(-1, like.shape[2], like.shape[3], rows.shape[1]).permute(0, 3, 1, 2)


def _tiles(x: Tensor, kernel: Tensor, positions: int) -> bool:
    """Packing a kernel costs about what 500 positions cost."""
    return x.element_size() >= 4 and (positions >= 512 or kernel.numel() < 100_000)


def convolve(call: Call, kernel: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """x convolved once in channels_last, into ``out`` if it is given."""
    x, size = call.x, call.output_size
    if not _tiles(x, kernel, x.shape[0] * size[0] * size[1]):
        y = call.geometry.forward(x, kernel, bias).contiguous(memory_format=CL)
        return y if out is None else out.copy_(y)
    y = call.empty([x.shape[0], kernel.shape[0], *size]) if out is None else out
    torch.ops.palora_native.tiled_conv.default(x, kernel, bias, *geometry_of(call), y)
    return y


def pull(call: Call, grad: Tensor, kernel: Tensor, need_x: bool, need_kernel: bool) -> tuple[Tensor | None, Tensor]:
    """(dx or None, dkernel) of one convolution of x."""
    x = call.x
    if not _tiles(x, kernel, grad.numel() // max(grad.shape[1], 1)):
        dx, dkernel, _ = call.geometry.backward(grad, x, kernel, need_x, need_kernel)
        return (dx.contiguous(memory_format=CL) if need_x else None), dkernel
    into = torch.empty_like(x, memory_format=CL) if need_x else None
    dkernel, _ = torch.ops.palora_native.tiled_conv_backward.default(
        grad, x, kernel, *geometry_of(call), need_kernel, False, into
    )
    return into, dkernel


def add_bias_(y: Tensor, call: Call) -> None:
    """y (M*n, O, H, W) += the bias of its ray, in place."""
    assert call.bias is not None
    per_ray = call.bias.expand(call.rays, -1) if call.bias.dim() == 1 else call.bias
    call.by_ray(y).add_(per_ray[:, None, :, None, None])


def factored_forward(call: Call) -> tuple[Tensor, None]:
    if call.layout != CL:
        return eager_conv.factored_forward(call)
    weight = call.weight
    S = convolve(call, call.dense(eager_conv.filters(call)), None)
    base: Tensor | None = None
    common = call.common_bias if weight is not None else None
    if weight is not None:
        base = convolve(call, call.dense(weight), common)
    y = base
    if y is None or call.sums_rays:
        y = call.empty([call.samples, call.outputs, *S.shape[2:]])
    torch.ops.palora_native.low_rank_add.default(
        None if base is None else rows_of(base), rows_of(S), call.low_rank.given[0], call.lam, call.shared, rows_of(y)
    )
    if call.bias is not None and common is None:
        add_bias_(y, call)
    return y, None


def factored_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    if call.layout != CL:
        return eager_conv.factored_backward(call, grad, S, needs)
    A, B = call.low_rank.given
    weight, filters = call.weight, call.dense(eager_conv.filters(call))
    maps = convolve(call, filters, None)  # S, computed again rather than kept
    wanted = [
        weight is not None and (needs.weight or needs.x),
        needs.factors or needs.x,
        needs.factors,
        needs.lam,
        needs.bias and call.bias_dims == 1,
    ]
    common, U, dA, dlam, db = torch.ops.palora_native.low_rank_pull.default(
        rows_of(grad), rows_of(maps), A, call.lam, call.shared, wanted
    )
    dx = dweight = None
    factors: list[Tensor] | None = None
    if wanted[0] and weight is not None:
        dx, dkernel = pull(call, maps_of(common, grad), call.dense(weight), needs.x, needs.weight)
        dweight = dkernel.contiguous() if needs.weight else None
    if wanted[1]:
        part, dfilters = pull(call, maps_of(U, grad), filters, needs.x, needs.factors)
        if part is not None:
            dx = part if dx is None else dx.add_(part)
        if needs.factors:
            factors = [dA, dfilters.contiguous().view(B.shape)]
    dbias = call.bias_gradient(grad) if needs.bias and call.bias_dims == 2 else db
    return Gradients(dx, dweight, dbias if needs.bias else None, factors, dlam if needs.lam else None)
