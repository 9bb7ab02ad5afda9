"""The ``factored`` plan of `conv2d` (matricised factors, one group): B's filters beside W's in one convolution.

Its output carries X * W and S = X * B; one kernel adds (S o Lam) A^T and the bias. In channels_last filters of zeros
fill up the pixels to a multiple of 16 bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.conv import Geometry
from palora_kernels.eager.factors import Factors, LowRank, Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.native.cuda import ops
from palora_kernels.native.cuda.maps import Layout

PACK = 8  # filters: 16 bytes or more in every dtype


def _filters(factors: LowRank) -> Tensor:
    """B as (R, C, kh, kw)."""
    return factors.B.view(-1, *factors.shape[1:]).to(factors.dtype)


def _appended(weight: Tensor | None, factors: LowRank, kind: Layout) -> Tensor:
    """[W; B; 0]."""
    parts = [_filters(factors)] if weight is None else [weight, _filters(factors)]
    count = sum(part.shape[0] for part in parts)
    if kind.last and count % PACK:
        parts.append(parts[0].new_zeros(PACK - count % PACK, *factors.shape[1:]))
    return torch.cat(parts).contiguous(memory_format=kind.format)


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
    rays, O, T, r = lam.shape[0], factors.shape[0], factors.tasks, factors.r
    kind = Layout(layout)
    out = conv.forward(x.contiguous(memory_format=layout), _appended(weight, factors, kind), None)
    size, flat = (out.shape[2], out.shape[3]), kind.flat(out)
    first = 0 if weight is None else O
    base = None if weight is None else kind.channels(flat, 0, O)
    S = kind.channels(flat, first, first + T * r)
    A = factors.A.to(factors.dtype).view(O, T, r).transpose(0, 1)[None]  # (1, T, O, r)
    P, positions = x.shape[0], size[0] * size[1]
    samples = P * (rays if shared else 1)
    y = kind.new(x, samples, O, positions)
    if kind.last:
        copies = rays if shared else 1
        ops.update(
            y.view(copies, P * positions, O),
            S.reshape(P * positions, T, r).transpose(0, 1)[None],
            A,
            lam,
            base=None if base is None else base.reshape(1, P * positions, O),
            bias=None if bias is None else bias.view(-1, 1, O),
            rows_per_ray=P * positions if shared else P // rays * positions,
        )
    else:
        ops.update(
            y,
            A,
            S.unflatten(1, (T, r)).transpose(2, 3),
            lam,
            base=base,
            bias=None if bias is None else bias.view(-1, O, 1),
            batches_per_ray=samples // rays,
        )
    return kind.maps(y, size)


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
    rays, O, T, r = lam.shape[0], factors.shape[0], factors.tasks, factors.r
    kind, over_rays = Layout(layout), shared and rays > 1
    x, grad = x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    flat, size = kind.flat(grad), (grad.shape[2], grad.shape[3])
    A = factors.A.to(factors.dtype)  # (O, R)
    U0 = flat @ A if kind.last else A.t() @ flat
    dx = dweight = dbias = dlam = None
    dfactors: list[Tensor] | None = None
    dB: Tensor | None = None
    if needs.x or needs.weight or needs.factors:
        U = kind.weighed(U0, lam, x.shape[0], over_rays)
        kernel = _appended(weight, factors, kind)
        columns = [U] if weight is None else [ops.sum_over_rays(flat, rays) if over_rays else flat, U]
        used = sum(c.shape[2 if kind.last else 1] for c in columns)
        if kernel.shape[0] > used:
            columns.append(kind.new(x, x.shape[0], kernel.shape[0] - used, U.shape[1]).zero_())
        stacked = kind.maps(torch.cat(columns, dim=2 if kind.last else 1), size)
        dx, dkernel, _ = conv.backward(stacked, x, kernel, needs.x, needs.weight or needs.factors)
        first = 0 if weight is None else O
        dweight = dkernel[:first].contiguous() if needs.weight else None
        dB = dkernel[first : first + T * r] if needs.factors else None
    if needs.factors or needs.lam:
        filters = _filters(factors).contiguous(memory_format=layout)
        S = kind.flat(conv.forward(x, filters, None))  # convolved again, not kept
        if dB is not None:
            dA = _gradient_of_A(flat, kind.weighed(S, lam, grad.shape[0]), kind, size)
            dfactors = factors.finish([dA.to(factors.A.dtype).contiguous(), dB.to(factors.B.dtype).reshape(T * r, -1)])
        if needs.lam:
            dlam = kind.channel_sums(U0, rays, S).view(rays, T, r).sum(2)
    if needs.bias:
        dbias = kind.bias_gradient(flat, rays, bias_dims)
    return dx if needs.x else None, dweight, dbias, dfactors, dlam


def _gradient_of_A(grad: Tensor, scaled: Tensor, kind: Layout, size: tuple[int, int]) -> Tensor:
    """grad (M*n, O), scaled (M*n, R), both over all positions -> (O, R)."""
    if kind.last:
        return grad.flatten(0, 1).t() @ scaled.flatten(0, 1)
    point = Geometry([1, 1], [0, 0], [1, 1], 1)
    kernel = grad.new_empty(grad.shape[1], scaled.shape[1], 1, 1)  # only its shape is used
    return point.backward(kind.maps(grad, size), kind.maps(scaled, size), kernel, False, True)[1].flatten(1)
