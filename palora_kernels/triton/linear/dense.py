"""The plans of arbitrary deltas, and the merged plan, which is theirs and the low-rank layers'.

``basis``: the products with W and every D_t, combined per row, or for a shared input once and then per ray.
``merged``: the M weights in one launch (`merge`), then batched products, which cuBLAS or rocBLAS does best.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.factors import Dense, Factors, LowRank
from palora_kernels.triton.linear import basis as linear_basis
from palora_kernels.triton.linear import basis_lam as linear_basis_lam
from palora_kernels.triton.linear import basis_weights as linear_basis_weights
from palora_kernels.triton.linear import combine as linear_combine
from palora_kernels.triton.linear import sums as linear_sums
from palora_kernels.triton.merge import merge
from palora_kernels.triton.merge import pull as merge_pull


def _one_layout(call: Call) -> Call:
    """W and D with the strides of (O, K), as the kernels that step from one to the other need them."""
    weight = None if call.weight is None else call.weight.contiguous()
    return replace(call, weight=weight, factors=Dense(call.D.contiguous()))


def basis_forward(call: Call) -> tuple[Tensor, None]:
    elements = call.factors.tasks + (call.weight is not None)
    if call.sums_rays and elements > linear_combine.MOST_ELEMENTS:
        return merged_forward(call)
    call = _one_layout(call)
    y = call.x.new_empty(call.samples, call.outputs)
    if call.sums_rays:
        linear_combine.run(call.x, call.weight, call.D, call.bias, call.lam, y)
    else:
        linear_basis.run(call.x, call.weight, call.D, call.bias, call.lam, y, n=call.n, scaled=True)
    return y, None


def basis_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    call, shared, common = _one_layout(call), call.sums_rays, call.weight is not None
    x, lam, D = call.x, call.lam, call.D
    # With a shared input every gradient but lam's sees the rays only through these sums.
    summed = linear_sums.over_rays(grad, lam, common=common, tasks=D.shape[0]) if shared else grad
    dx = dweight = dlam = dD = None
    if needs.x:
        dx = x.new_empty(x.shape)
        transposed = None if call.weight is None else call.weight.t()
        linear_basis.run(summed, transposed, D.transpose(1, 2), None, lam, dx, n=call.n, scaled=not shared)
    if needs.weight or needs.factors:
        dweight, dD = linear_basis_weights.run(call, summed, needs, scaled=not shared)
    if needs.lam:
        dlam = linear_basis_lam.run(grad, x, D, call.rays, shared)
    dbias = linear_sums.bias(grad, call.rays, call.bias_dims) if needs.bias else None
    return Gradients(dx, dweight, dbias, dD, dlam)


# -------------------------------------------------------------------------------------------------------------- merged


def _one_tap(factors: Factors) -> Factors:
    """As those of a convolution with one tap, whose kernels `merge` forms."""
    if isinstance(factors, Dense):
        return Dense(factors.given[0][..., None, None])
    return LowRank(*factors.given, (*factors.shape, 1, 1))


def _weights(call: Call) -> Tensor:
    """(M, O, K): a matrix is a kernel with one tap."""
    taps = None if call.weight is None else call.weight[..., None, None]
    return merge.kernels_of_rays(taps, _one_tap(call.factors), call.lam).view(call.rays, *call.factors.shape)


def _rows(call: Call) -> Tensor:
    """x as (M, n, K), a view where it can be one."""
    if call.shared:
        return call.x.expand(call.rays, *call.x.shape)
    return call.x.reshape(call.rays, call.n, call.x.shape[1])


def merged_forward(call: Call) -> tuple[Tensor, None]:
    weights, O = _weights(call).transpose(1, 2), call.outputs
    if call.bias is None:
        return torch.bmm(_rows(call), weights).view(-1, O), None
    return torch.baddbmm(call.bias.view(-1, 1, O), _rows(call), weights).view(-1, O), None


def merged_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    rays, n, (O, K) = call.rays, call.n, call.factors.shape
    by_ray = grad.reshape(rays, n, O)
    dx: Tensor | None = None
    if needs.x:
        weights = _weights(call)
        if call.shared:  # the sum over rays is part of one product's reduction
            dx = by_ray.transpose(0, 1).reshape(n, rays * O) @ weights.view(rays * O, K)
        else:
            dx = torch.bmm(by_ray, weights).view(rays * n, K)
    found = Gradients()
    if needs.weights:
        gradients = _wide_bmm(by_ray.transpose(1, 2), _rows(call))

        def sums(each: bool, total: bool) -> tuple[Tensor | None, Tensor | None]:
            return gradients.view(rays, O, K, 1, 1) if each else None, gradients.sum(0).to(
                call.x.dtype
            ) if total else None

        found = merge_pull.pull(_one_tap(call.factors), gradients.view(rays, 1, O * K), call.lam, needs, sums)
        shapes = [t.shape for t in call.factors.given]
        dweight = None if found.weight is None else found.weight.view(O, K)
        factors = None if found.factors is None else [f.view(s) for f, s in zip(found.factors, shapes, strict=True)]
        found = found._replace(weight=dweight, factors=factors)
    dbias = linear_sums.bias(grad, rays, call.bias_dims) if needs.bias else None
    return found._replace(x=dx, bias=dbias)


def _wide_bmm(a: Tensor, b: Tensor) -> Tensor:
    """The batched product of 16-bit matrices as it was accumulated, in float32."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if a.device.type == "cuda":
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())
