"""The CUDA plans of `conv2d` and `conv2d_delta`: ``merged``, and the tables of all.

Convolutions are cuDNN's, through torch. All kernels of the rays are merged in one launch; where the rays share their
input, one convolution with M*O filters serves them all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.eager.conv import Geometry, _bias_of, _empty, _place, _ray
from palora_kernels.eager.factors import Factors, Needs
from palora_kernels.eager.linear import Gradients
from palora_kernels.native.cuda.conv_basis import basis_backward, basis_forward
from palora_kernels.native.cuda.conv_factored import factored_backward, factored_forward
from palora_kernels.native.cuda.factors import Merging
from palora_kernels.native.cuda.maps import Layout


def _kernels(merging: Merging, weight: Tensor | None) -> list[Tensor]:
    return [merging.shaped(flat) for flat in merging.weights(weight)]


def _rays_last(flat: Tensor, rays: int, layout: Layout) -> Tensor:
    """Flat maps (M*n, ...) of O channels -> (n, ...) of M*O channels, ray by ray; a copy."""
    P, a, b = flat.shape
    by_ray = flat.view(rays, P // rays, a, b)
    order = (1, 2, 0, 3) if layout.last else (1, 0, 2, 3)
    return by_ray.permute(order).reshape(P // rays, *((a, rays * b) if layout.last else (rays * a, b)))


def _rays_first(flat: Tensor, rays: int, layout: Layout) -> Tensor:
    """The way back."""
    n, a, b = flat.shape
    if layout.last:
        return flat.view(n, a, rays, b // rays).permute(2, 0, 1, 3).reshape(rays * n, a, b // rays)
    return flat.view(n, rays, a // rays, b).transpose(0, 1).reshape(rays * n, a // rays, b)


def _in_one(rays: int, shared: bool, conv: Geometry) -> bool:
    return shared and rays > 1 and conv.groups == 1


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
    kernels = _kernels(Merging(factors, lam, layout), weight)
    if _in_one(rays, shared, conv):
        common = None if bias is None else bias.expand(rays, -1).reshape(-1)
        y = conv.forward(x, torch.cat(kernels).contiguous(memory_format=layout), common)
        kind = Layout(layout)
        return kind.maps(_rays_first(kind.flat(y), rays, kind), (y.shape[2], y.shape[3]))
    if rays == 1:
        return conv.forward(x, kernels[0], _bias_of(bias, 0)).contiguous(memory_format=layout)
    n = x.shape[0] if shared else x.shape[0] // rays
    size = conv.output_size(x, factors.shape[2:])  # type: ignore[arg-type]
    y = _empty(x, [rays * n, factors.shape[0], *size], layout)
    for m, kernel in enumerate(kernels):
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
    rays, kind = lam.shape[0], Layout(layout)
    grad, x = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
    merging = Merging(factors, lam, layout)
    kernels = _kernels(merging, weight)
    wanted = needs.weight or needs.factors or needs.lam
    dx: Tensor | None = None
    grads: list[Tensor] = []
    if _in_one(rays, shared, conv):
        flat = _rays_last(kind.flat(grad), rays, kind)
        stacked, kernel = kind.maps(flat, (grad.shape[2], grad.shape[3])), torch.cat(kernels)
        dx, dkernel, _ = conv.backward(stacked, x, kernel.contiguous(memory_format=layout), needs.x, wanted)
        grads = list(dkernel.chunk(rays)) if wanted else []
    elif needs.x or wanted:
        for m, kernel in enumerate(kernels):
            rows = _ray(x, m, rays, shared)
            dx_m, dkernel, _ = conv.backward(_ray(grad, m, rays), rows, kernel, needs.x, wanted)
            if needs.x:
                dx = _place(dx, dx_m, x, m, rays, shared, layout)
            grads.append(dkernel)
    dweight = dbias = dlam = None
    dfactors: list[Tensor] | None = None
    if wanted:
        dweight, dfactors, dlam = merging.pull(torch.stack([merging.flat(g) for g in grads]), needs)
    if needs.bias:
        dbias = kind.bias_gradient(kind.flat(grad), rays, bias_dims)
    return dx if needs.x else None, dweight, dbias, dfactors, dlam


CONV = {
    "merged": (merged_forward, merged_backward),
    "basis": (basis_forward, basis_backward),
    "factored": (factored_forward, factored_backward),
}
