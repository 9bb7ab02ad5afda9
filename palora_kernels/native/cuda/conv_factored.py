"""The ``factored`` plan of `conv2d` (matricised factors, one group): B's filters beside W's in one convolution.

Its output carries X * W and S = X * B; one kernel adds (S o Lam) A^T and the bias. In channels_last filters of zeros
fill up the pixels to a multiple of 16 bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import POINT, Call, Gradients, Needs
from palora_kernels.eager.conv import appended, filters
from palora_kernels.native.cuda import ops
from palora_kernels.native.cuda.maps import Layout

PACK = 8  # filters: 16 bytes or more in every dtype


def _packed(call: Call, kind: Layout) -> Tensor:
    """[W; B; 0]."""
    kernel = appended(call.weight, call)
    if kind.last and kernel.shape[0] % PACK:
        kernel = torch.cat([kernel, kernel.new_zeros(PACK - kernel.shape[0] % PACK, *kernel.shape[1:])])
    return call.dense(kernel)


def factored_forward(call: Call) -> tuple[Tensor, None]:
    x, O, T, r, kind = call.x, call.outputs, call.low_rank.tasks, call.low_rank.r, Layout(call.layout)
    out = call.geometry.forward(x, _packed(call, kind), None)
    size, flat = (out.shape[2], out.shape[3]), kind.flat(out)
    first = 0 if call.weight is None else O
    base = None if call.weight is None else kind.channels(flat, 0, O)
    S = kind.channels(flat, first, first + T * r)
    A, bias = call.low_rank.given[0][None], call.bias  # (1, T, O, r)
    P, positions = x.shape[0], size[0] * size[1]
    y = kind.new(x, call.samples, O, positions)
    if kind.last:
        ops.update(
            y.view(call.samples // P, P * positions, O),
            S.reshape(P * positions, T, r).transpose(0, 1)[None],
            A,
            call.lam,
            base=None if base is None else base.reshape(1, P * positions, O),
            bias=None if bias is None else bias.view(-1, 1, O),
            rows_per_ray=call.n * positions,
        )
    else:
        ops.update(
            y,
            A,
            S.unflatten(1, (T, r)).transpose(2, 3),
            call.lam,
            base=base,
            bias=None if bias is None else bias.view(-1, O, 1),
            batches_per_ray=call.n,
        )
    return kind.maps(y, size), None


def factored_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    x, factors, rays, O, kind = call.x, call.low_rank, call.rays, call.outputs, Layout(call.layout)
    R, first = factors.columns, 0 if call.weight is None else O
    flat, size = kind.flat(grad), (grad.shape[2], grad.shape[3])
    A = factors.A.to(factors.dtype)  # (O, R)
    U0 = flat @ A if kind.last else A.t() @ flat
    dx = dweight = dB = dlam = None
    dfactors: list[Tensor] | None = None
    if needs.x or needs.weight or needs.factors:
        kernel = _packed(call, kind)
        stacked = _stacked(call, flat, kind.weighed(U0, call.lam, x.shape[0], call.sums_rays), kernel.shape[0], kind)
        want_kernel = needs.weight or needs.factors
        dx, dkernel, _ = call.geometry.backward(kind.maps(stacked, size), x, kernel, needs.x, want_kernel)
        dweight = dkernel[:first].contiguous() if needs.weight else None
        dB = dkernel[first : first + R] if needs.factors else None
    if needs.factors or needs.lam:
        maps = kind.flat(call.geometry.forward(x, call.dense(filters(call)), None))  # S, computed again, not kept
        if dB is not None:
            dA = _gradient_of_A(flat, kind.weighed(maps, call.lam, grad.shape[0]), kind, size)
            dfactors = factors.finish([dA.contiguous(), dB.flatten(1)])
        if needs.lam:
            dlam = kind.channel_sums(U0, rays, maps).view(rays, factors.tasks, factors.r).sum(2)
    dbias = kind.bias_gradient(flat, rays, call.bias_dims) if needs.bias else None
    return Gradients(dx if needs.x else None, dweight, dbias, dfactors, dlam)


def _stacked(call: Call, flat: Tensor, U: Tensor, filters: int, kind: Layout) -> Tensor:
    """The gradient of X * [W; B; 0]: flat maps of G (its sum over rays for a shared input), U and zeros."""
    parts = [U]
    if call.weight is not None:
        parts.insert(0, ops.sum_over_rays(flat, call.rays) if call.sums_rays else flat)
    axis = 2 if kind.last else 1
    used = sum(part.shape[axis] for part in parts)
    if filters > used:
        parts.append(kind.new(U, U.shape[0], filters - used, U.shape[3 - axis]).zero_())
    return torch.cat(parts, dim=axis)


def _gradient_of_A(grad: Tensor, scaled: Tensor, kind: Layout, size: tuple[int, int]) -> Tensor:
    """grad (M*n, O), scaled (M*n, R), both over all positions -> (O, R)."""
    if kind.last:
        return grad.flatten(0, 1).t() @ scaled.flatten(0, 1)
    kernel = grad.new_empty(grad.shape[1], scaled.shape[1], 1, 1)  # only its shape is used
    return POINT.backward(kind.maps(grad, size), kind.maps(scaled, size), kernel, False, True)[1].flatten(1)
