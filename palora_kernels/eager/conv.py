"""Plans of `conv2d` and `conv2d_delta`.

``merged`` forms ray m's kernel and convolves ray m's rows, one ray at a time. ``basis`` convolves with W and with every
D_t once and combines the T+1 outputs per ray: it pays where all rays share the input and the kernel is large.
``factored`` (matricised low-rank kernels, one group) appends B's filters to W's in one convolution over all rows and
adds ``(S o Lam) A^T`` as a 1 x 1 product: it pays where rays have few rows each, as with a preference per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palora_kernels.eager.factors import Factors, LowRank, Needs, WeightGradients
from palora_kernels.eager.linear import Gradients, _coefficients
from palora_kernels.reference import opmath_dtype


@dataclass(frozen=True)
class Geometry:
    """The arguments of a convolution that are not tensors."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.aten.convolution.default(
            x, weight, bias, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        )

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        need_x: bool,
        need_weight: bool,
        need_bias: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dx, dweight, dbias = torch.ops.aten.convolution_backward.default(
            grad,
            x,
            weight,
            [weight.shape[0]],
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            [need_x, need_weight, need_bias],
        )
        return dx, dweight, dbias

    def output_size(self, x: Tensor, kernel: tuple[int, int]) -> list[int]:
        return [
            (x.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (kernel[i] - 1) - 1) // self.stride[i] + 1
            for i in (0, 1)
        ]


def memory_format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The layout of the result: torch's rule for convolutions, except that a single-channel image on a CPU, which is
    both NCHW and NHWC, counts as NHWC: pooling and convolution are faster in it there."""
    if x.shape[1] == 1 and x.device.type == "cpu":
        return torch.channels_last
    for t in (x, weight):
        if t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous():
            return torch.channels_last
    return torch.contiguous_format


def _empty(x: Tensor, size: list[int], layout: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _ray(t: Tensor, m: int, rays: int, shared: bool = False) -> Tensor:
    n = t.shape[0] // rays
    return t if shared else t[m * n : (m + 1) * n]


def _by_ray(t: Tensor, rays: int) -> Tensor:
    """(M*n, ...) -> (M, n, ...), also for n = 0."""
    return t.unflatten(0, (rays, t.shape[0] // rays))


def _bias_of(bias: Tensor | None, m: int) -> Tensor | None:
    return bias if bias is None or bias.dim() == 1 else bias[m]


def _bias_gradient(grad: Tensor, rays: int, bias_dims: int) -> Tensor:
    if bias_dims == 1:
        return grad.sum((0, 2, 3))
    return torch.stack([_ray(grad, m, rays).sum((0, 2, 3)) for m in range(rays)])


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
    rays = lam.shape[0]
    x = x.contiguous(memory_format=layout)
    if rays == 1:
        kernel = factors.merged(weight, lam[0]).contiguous(memory_format=layout)
        return conv.forward(x, kernel, _bias_of(bias, 0)).contiguous(memory_format=layout)
    n = x.shape[0] if shared else x.shape[0] // rays
    size = conv.output_size(x, factors.shape[2:])  # type: ignore[arg-type]
    y = _empty(x, [rays * n, factors.shape[0], *size], layout)
    for m in range(rays):
        kernel = factors.merged(weight, lam[m]).contiguous(memory_format=layout)
        _ray(y, m, rays).copy_(conv.forward(_ray(x, m, rays, shared), kernel, _bias_of(bias, m)))
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
    rays = lam.shape[0]
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    dx: Tensor | None = None
    biases: list[Tensor] = []
    sums = WeightGradients(factors, lam, needs)
    for m in range(rays):
        kernel = factors.merged(weight, lam[m]).contiguous(memory_format=layout)
        dx_m, dkernel, dbias_m = conv.backward(
            _ray(grad, m, rays), _ray(x, m, rays, shared), kernel, needs.x, sums.wanted, needs.bias
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


def _place(
    dx: Tensor | None,
    dx_m: Tensor,
    x: Tensor,
    m: int,
    rays: int,
    shared: bool,
    layout: torch.memory_format,
) -> Tensor:
    """Put ray m's input gradient into its rows of dx, or add it where all rays share the input."""
    if shared or rays == 1:
        return dx_m.contiguous(memory_format=layout) if dx is None else dx.add_(dx_m)
    if dx is None:
        dx = torch.empty_like(x, memory_format=layout)
    _ray(dx, m, rays).copy_(dx_m)
    return dx


def _flat(t: Tensor, rays: int, layout: torch.memory_format) -> Tensor:
    """t (M*n, C, H, W) in ``layout`` -> (M, everything else in memory order), a view."""
    t = t.contiguous(memory_format=layout)
    if layout == torch.channels_last:
        t = t.permute(0, 2, 3, 1)
    return t.reshape(rays, -1)


def _unflat(flat: Tensor, size: list[int], layout: torch.memory_format) -> Tensor:
    """The inverse of `_flat` for one (rows, C, H, W) block."""
    if layout == torch.channels_last:
        rows, C, H, W = size
        return flat.view(rows, H, W, C).permute(0, 3, 1, 2)
    return flat.view(size)


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
    rays = lam.shape[0]
    x = x.contiguous(memory_format=layout)
    n = x.shape[0] if shared else x.shape[0] // rays
    coefficients = lam.to(opmath_dtype(x.dtype))
    size = conv.output_size(x, factors.shape[2:])  # type: ignore[arg-type]
    y = _empty(x, [rays * n, factors.shape[0], *size], layout)
    common = bias if bias is not None and bias.dim() == 1 else None
    if weight is not None:
        base = conv.forward(x, weight.contiguous(memory_format=layout), common)
        for m in range(rays):
            _ray(y, m, rays).copy_(_ray(base, m, rays, shared))
        del base
    else:
        y.zero_()
        if common is not None:
            y.add_(common[:, None, None])
    for t, delta in enumerate(factors.deltas()):
        z = conv.forward(x, delta.contiguous(memory_format=layout), None)
        for m in range(rays):
            _ray(y, m, rays).addcmul_(_ray(z, m, rays, shared), coefficients[m, t].to(y.dtype))
        del z
    if bias is not None and bias.dim() == 2:
        for m in range(rays):
            _ray(y, m, rays).add_(bias[m][:, None, None])
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
    rays = lam.shape[0]
    x = x.contiguous(memory_format=layout)
    wide = opmath_dtype(x.dtype)
    deltas = factors.deltas()
    first = 0 if weight is None else 1
    elements = list(deltas) if weight is None else [weight, *deltas]
    c = _coefficients(weight, lam, wide)
    g = _flat(grad, rays, layout)
    size = [grad.shape[0] // rays if shared else grad.shape[0], *grad.shape[1:]]
    dx: Tensor | None = None
    dweight: Tensor | None = None
    ddeltas: list[Tensor] = []
    want_kernel = needs.weight or needs.factors
    for e, element in enumerate(elements):
        if not (needs.x or want_kernel):
            break
        column = c[:, e].to(g.dtype)
        gz = _unflat(column @ g if shared else (column[:, None] * g).view(-1), size, layout)
        dx_e, dkernel, _ = conv.backward(gz, x, element.contiguous(memory_format=layout), needs.x, want_kernel)
        if needs.x:
            dx = dx_e.contiguous(memory_format=layout) if dx is None else dx.add_(dx_e)
        if e < first:
            dweight = dkernel.contiguous() if needs.weight else None
        else:
            ddeltas.append(dkernel)
    dfactors: list[Tensor] | None = None
    if needs.factors:
        into = factors.new_gradients()
        factors.pull_deltas(torch.stack(ddeltas), into)
        dfactors = factors.finish(into)
    dlam = _basis_lam_gradient(g, x, factors, lam, shared, conv, layout) if needs.lam else None
    dbias = _bias_gradient(grad, rays, bias_dims) if needs.bias else None
    return dx, dweight, dbias, dfactors, dlam


def _basis_lam_gradient(
    g: Tensor,
    x: Tensor,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    """dlam[m, t] = <G_m, Z_t>, with Z_t convolved again rather than kept since the forward."""
    wide = opmath_dtype(x.dtype)
    columns = []
    for delta in factors.deltas():
        z = conv.forward(x, delta.contiguous(memory_format=layout), None)
        z = _flat(z, 1 if shared else lam.shape[0], layout)
        columns.append((g.to(wide) * z.to(wide)).sum(1))
    return torch.stack(columns, dim=1).to(lam.dtype)


def _appended(weight: Tensor | None, factors: LowRank) -> Tensor:
    """[W; B]: the O base filters, if any, and B's R filters, as one kernel."""
    b = factors.B.view(-1, *factors.shape[1:]).to(factors.dtype)
    return b if weight is None else torch.cat([weight, b])


def _scale_maps(S: Tensor, lam: Tensor, r: int, shared: bool) -> Tensor:
    """S (P, R, H, W) -> S o Lam (M*n, R, H, W)."""
    rays = lam.shape[0]
    wide = S.to(opmath_dtype(S.dtype))
    columns = lam.to(wide.dtype).repeat_interleave(r, dim=1)  # (M, R)
    wide = wide.repeat(rays, 1, 1, 1) if shared else wide
    return (wide * columns.repeat_interleave(wide.shape[0] // rays, 0)[:, :, None, None]).to(S.dtype)


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
    rays, O = lam.shape[0], factors.shape[0]
    out = conv.forward(
        x.contiguous(memory_format=layout),
        _appended(weight, factors).contiguous(memory_format=layout),
        None,
    )
    base = O if weight is not None else 0
    scaled = _scale_maps(out[:, base:], lam, factors.r, shared)
    point = Geometry([1, 1], [0, 0], [1, 1], 1)
    y = point.forward(scaled, factors.A.to(factors.dtype)[:, :, None, None], None)
    if weight is not None:
        y = y + (out[:, :base].repeat(rays, 1, 1, 1) if shared else out[:, :base])
    if bias is not None:
        per_row = bias[None] if bias.dim() == 1 else bias.repeat_interleave(y.shape[0] // rays, 0)
        y = y + per_row[:, :, None, None]
    return y.contiguous(memory_format=layout)


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
    rays, tasks, r, O = lam.shape[0], factors.tasks, factors.r, factors.shape[0]
    x, grad = x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    wide = opmath_dtype(x.dtype)
    point = Geometry([1, 1], [0, 0], [1, 1], 1)
    A = factors.A.to(factors.dtype)  # (O, R)
    kernel = _appended(weight, factors)
    base = O if weight is not None else 0
    U0 = point.forward(grad, A.t().contiguous()[:, :, None, None], None)  # (M*n, R, H, W)
    U = _scale_maps(U0, lam, r, shared=False)
    common = grad
    if shared and rays > 1:
        U, common = _by_ray(U, rays).sum(0), _by_ray(grad, rays).sum(0)
    stacked = U if weight is None else torch.cat([common, U], dim=1)
    want_kernel = needs.weight or needs.factors
    dx, dkernel, _ = conv.backward(stacked, x, kernel.contiguous(memory_format=layout), needs.x, want_kernel)
    dweight = dkernel[:base].contiguous() if needs.weight else None
    dfactors: list[Tensor] | None = None
    dlam: Tensor | None = None
    if needs.factors or needs.lam:
        b = factors.B.view(-1, *factors.shape[1:]).to(factors.dtype)
        S = conv.forward(x, b.contiguous(memory_format=layout), None)  # recomputed, not kept
        if needs.factors:
            scaled = _scale_maps(S, lam, r, shared)
            dA = point.backward(grad, scaled, A[:, :, None, None], False, True)[1]
            into = [dA.to(wide).reshape(O, tasks * r), dkernel[base:].to(wide).reshape(tasks * r, -1)]
            dfactors = factors.finish(into)
        if needs.lam:
            S = S.repeat(rays, 1, 1, 1) if shared else S
            products = _by_ray((S.to(wide) * U0.to(wide)).sum((2, 3)), rays).sum(1)
            dlam = products.view(rays, tasks, r).sum(2).to(lam.dtype)
    dbias = _bias_gradient(grad, rays, bias_dims) if needs.bias else None
    return dx if needs.x else None, dweight, dbias, dfactors, dlam


CONV = {
    "merged": (merged_forward, merged_backward),
    "basis": (basis_forward, basis_backward),
    "factored": (factored_forward, factored_backward),
}
