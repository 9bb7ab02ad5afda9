"""The CUDA plans of convolutions: ``merged``, and the tables of all.

Convolutions are cuDNN's, through torch. All kernels of the rays are merged in one launch; where the rays share their
input, one convolution with M*O filters serves them all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.conv import place
from palora_kernels.native.cuda.conv_basis import basis_backward, basis_forward
from palora_kernels.native.cuda.conv_factored import factored_backward, factored_forward
from palora_kernels.native.cuda.factors import Merging
from palora_kernels.native.cuda.maps import Layout


def _kernels(merging: Merging) -> list[Tensor]:
    return [merging.shaped(flat) for flat in merging.weights()]


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


def _in_one(call: Call) -> bool:
    return call.sums_rays and call.geometry.groups == 1


def merged_forward(call: Call) -> tuple[Tensor, None]:
    rays, conv, kernels = call.rays, call.geometry, _kernels(Merging(call))
    if _in_one(call):
        common = None if call.bias is None else call.bias.expand(rays, -1).reshape(-1)
        y, kind = conv.forward(call.x, call.dense(torch.cat(kernels)), common), Layout(call.layout)
        return kind.maps(_rays_first(kind.flat(y), rays, kind), (y.shape[2], y.shape[3])), None
    if rays == 1:
        return call.dense(conv.forward(call.x, kernels[0], call.bias_of(0))), None
    y = call.empty([call.samples, call.outputs, *call.output_size])
    for m, kernel in enumerate(kernels):
        call.rows(y, m).copy_(conv.forward(call.inputs(call.x, m), kernel, call.bias_of(m)))
    return y, None


def merged_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    rays, kind, merging = call.rays, Layout(call.layout), Merging(call)
    kernels = _kernels(merging)
    dx: Tensor | None = None
    grads: list[Tensor] = []
    if _in_one(call):
        flat = _rays_last(kind.flat(grad), rays, kind)
        stacked, kernel = kind.maps(flat, (grad.shape[2], grad.shape[3])), call.dense(torch.cat(kernels))
        dx, dkernel, _ = call.geometry.backward(stacked, call.x, kernel, needs.x, needs.weights)
        grads = list(dkernel.chunk(rays)) if needs.weights else []
    elif needs.x or needs.weights:
        for m, kernel in enumerate(kernels):
            dx_m, dkernel, _ = call.geometry.backward(
                call.rows(grad, m), call.inputs(call.x, m), kernel, needs.x, needs.weights
            )
            if needs.x:
                dx = place(call, dx, dx_m, m)
            grads.append(dkernel)
    dbias = kind.bias_gradient(kind.flat(grad), rays, call.bias_dims) if needs.bias else None
    dx = dx if needs.x else None
    if not needs.weights:
        return Gradients(dx, bias=dbias)
    return merging.pull(torch.stack([merging.flat(g) for g in grads]), needs)._replace(x=dx, bias=dbias)


PLANS = {
    "merged": (merged_forward, merged_backward),
    "basis": (basis_forward, basis_backward),
    "factored": (factored_forward, factored_backward),
}
