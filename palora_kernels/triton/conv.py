"""Plans of `conv2d` and `conv2d_delta` on the GPU. All work on NHWC maps; others are copied on the way in and out.

``merged`` forms the kernels of all rays in one launch and convolves all rays in one launch; ``library`` convolves with
the same kernels ray by ray, with cuDNN. ``factored`` (matricised low-rank kernels, one group) lets the library convolve
with [W; B] and adds ``(S o Lam) A^T`` in one launch. ``basis`` lets it convolve with [W, D_1 .. D_T] and combines the
T+1 maps into M in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.conv import Geometry
from palora_kernels.eager.factors import Factors, LowRank, Needs
from palora_kernels.eager.linear import Gradients, _coefficients
from palora_kernels.triton import (
    conv_adapters,
    conv_combine,
    conv_gemm,
    conv_kernel_gradient,
    conv_library,
    conv_rays,
    merge,
    merge_pull,
)
from palora_kernels.triton.conv_kernel_gradient import KernelGradients
from palora_kernels.triton.conv_library import nhwc, restored
from palora_kernels.triton.conv_shapes import ConvShape
from palora_kernels.triton.operands import out_side


def _dense(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _bias_gradient(grad: Tensor, rays: int, bias_dims: int) -> Tensor:
    """grad (M*n, Ho, Wo, O); the sum over columns is torch's: one launch, float32 inside, a fixed order."""
    O = grad.shape[3]
    return grad.view(-1, O).sum(0) if bias_dims == 1 else grad.view(rays, -1, O).sum(1)


def _without_rows(shape: ConvShape, x: Tensor, layout: torch.memory_format) -> Tensor:
    return torch.empty(
        (0, shape.outputs, shape.out_h, shape.out_w), dtype=x.dtype, device=x.device, memory_format=layout
    )


def _gradients_without_rows(
    x: Tensor,
    weight: Tensor | None,
    factors: Factors,
    lam: Tensor,
    bias_dims: int,
    needs: Needs,
    layout: torch.memory_format,
) -> Gradients:
    """An empty batch: every gradient is zero."""
    O = factors.shape[0]
    dx = torch.empty_like(x, memory_format=layout) if needs.x else None
    dweight = x.new_zeros(weight.shape) if weight is not None and needs.weight else None
    dbias = x.new_zeros(O if bias_dims == 1 else (lam.shape[0], O)) if needs.bias else None
    dfactors = [x.new_zeros(f.shape) for f in factors.given] if needs.factors else None
    return dx, dweight, dbias, dfactors, torch.zeros_like(lam) if needs.lam else None


# -------------------------------------------------------------------------------------------------------------- merged


@dataclass(frozen=True)
class Products:
    """Who convolves with the merged kernels, (M, O, kh, kw, C/groups); maps are NHWC."""

    forward: Callable[[Tensor, Tensor, Tensor | None, ConvShape], Tensor]
    input_gradient: Callable[[Tensor, Tensor, ConvShape], Tensor]
    kernel_gradients: Callable[[Tensor, Tensor, ConvShape, int], KernelGradients]


OURS = Products(conv_gemm.forward, conv_gemm.input_gradient, conv_kernel_gradient.kernel_gradients)
LIBRARY = Products(conv_rays.forward, conv_rays.input_gradient, conv_rays.kernel_gradients)


def merged_forward(
    products: Products,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    factors: Factors,
    lam: Tensor,
    shared: bool,
    conv: Geometry,
    layout: torch.memory_format,
) -> Tensor:
    shape = ConvShape.of(x, factors.shape, lam.shape[0], shared, conv)
    if shape.images == 0:
        return _without_rows(shape, x, layout)
    kernels = merge.kernels_of_rays(weight, factors, lam)
    return restored(products.forward(nhwc(x), kernels, _dense(bias), shape), layout)


def merged_backward(
    products: Products,
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
    shape = ConvShape.of(x, factors.shape, lam.shape[0], shared, conv)
    if shape.images == 0:
        return _gradients_without_rows(x, weight, factors, lam, bias_dims, needs, layout)
    g = nhwc(grad)
    dx, dweight, dbias, dfactors, dlam = None, None, None, None, None
    if needs.x:
        # The kernels are formed again rather than kept: M weights are more than W and the factors.
        kernels = merge.kernels_of_rays(weight, factors, lam)
        dx = restored(products.input_gradient(g, kernels, shape), layout)
    each, total = needs.factors or needs.lam, needs.weight and weight is not None
    if each or total:
        of_bias = bias_dims if needs.bias else 0
        gradients = products.kernel_gradients(nhwc(x), g, shape, of_bias)
        dbias = gradients.bias(x.dtype)
        if each and isinstance(factors, LowRank) and merge_pull.fits(factors, x.device):
            dweight, pulled, dlam = merge_pull.run(factors, gradients.partial, lam, weight=total)
            dfactors, dlam = (pulled if needs.factors else None), (dlam if needs.lam else None)
        else:
            dkernels, dweight = gradients.sums(x.dtype, each=each, total=total)
            if dkernels is not None:
                dfactors, dlam = merge.pull_back(factors, dkernels, lam, needs)
    elif needs.bias:
        dbias = _bias_gradient(g, lam.shape[0], bias_dims)
    return dx, dweight, dbias, dfactors, dlam


# ------------------------------------------------------------------------------------------------------------ factored


def _filters(factors: LowRank) -> Tensor:
    """B as R kernels, (R, C, kh, kw)."""
    return factors.given[1].reshape(-1, *factors.shape[1:])


def _appended(weight: Tensor | None, factors: LowRank) -> Tensor:
    """[W; B]: the O base kernels, if any, and B's R."""
    return _filters(factors) if weight is None else torch.cat([weight, _filters(factors)])


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
    shape = ConvShape.of(x, factors.shape, lam.shape[0], shared, conv)
    if shape.images == 0:
        return _without_rows(shape, x, layout)
    maps = conv_library.forward(x, _appended(weight, factors), conv)
    base = 0 if weight is None else shape.outputs
    y = conv_adapters.outputs(maps, out_side(factors.given[0]), _dense(bias), lam, base, shared)
    return restored(y, layout)


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
    shape = ConvShape.of(x, factors.shape, lam.shape[0], shared, conv)
    if shape.images == 0:
        return _gradients_without_rows(x, weight, factors, lam, bias_dims, needs, layout)
    A, B = factors.given
    g = nhwc(grad)
    S = conv_library.forward(x, _filters(factors), conv) if needs.factors or needs.lam else None  # again, not kept
    with_base = weight is not None and (needs.x or needs.weight)
    base = shape.outputs if with_base else 0
    both, scaled, dlam = conv_adapters.gradients(
        g,
        out_side(A),
        lam,
        S,
        base,
        shared,
        stacked=needs.x or needs.weight or needs.factors,
        scaled=needs.factors,
        products=needs.lam,
    )
    dx, dweight, dfactors = None, None, None
    if both is not None:
        kernel = _appended(weight if with_base else None, factors)
        only_b = with_base and needs.factors and not needs.weight  # a frozen W: its gradient is most of the work
        dx, dkernel = conv_library.backward(
            both, x, kernel, conv, needs.x, (needs.weight or needs.factors) and not only_b
        )
        if only_b:
            _, dkernel = conv_library.backward(both[..., base:].contiguous(), x, _filters(factors), conv, False, True)
        if needs.weight and dkernel is not None:
            dweight = dkernel[:base].contiguous()
        if needs.factors and dkernel is not None and scaled is not None:
            dA = (g.view(-1, shape.outputs).t() @ scaled).view(A.shape[1], A.shape[0], A.shape[2])
            dB = dkernel[-B.shape[0] * B.shape[1] :].reshape(B.shape)
            # A copy of dB: the results of an op may not share memory, and dW is in that of dkernel.
            dfactors = [dA.transpose(0, 1).contiguous(), dB.clone()]
    dbias = _bias_gradient(g, lam.shape[0], bias_dims) if needs.bias else None
    return None if dx is None else restored(dx, layout), dweight, dbias, dfactors, dlam


# --------------------------------------------------------------------------------------------------------------- basis


def _stacked(elements: Tensor, groups: int) -> Tensor:
    """(E, O, C/groups, kh, kw) -> (groups*E*O/groups, C/groups, kh, kw), the elements of a group together."""
    E, O, *rest = elements.shape
    return elements.view(E, groups, O // groups, *rest).transpose(0, 1).reshape(E * O, *rest)


def _unstacked(kernel: Tensor, elements: int, groups: int) -> Tensor:
    """The inverse of `_stacked`."""
    rows, *rest = kernel.shape
    outputs = rows // elements
    return kernel.view(groups, elements, outputs // groups, *rest).transpose(0, 1).reshape(elements, outputs, *rest)


def _elements(weight: Tensor | None, factors: Factors) -> Tensor:
    """(E, O, C/groups, kh, kw): W, if there, and the deltas."""
    deltas = factors.deltas()
    return deltas if weight is None else torch.cat([weight[None], deltas])


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
    shape = ConvShape.of(x, factors.shape, lam.shape[0], shared, conv)
    if shape.images == 0:
        return _without_rows(shape, x, layout)
    maps = conv_library.forward(x, _stacked(_elements(weight, factors), conv.groups), conv)
    coefficients = _coefficients(weight, lam, torch.float32).contiguous()
    return restored(conv_combine.combine(maps, coefficients, _dense(bias), conv.groups, shared), layout)


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
    shape = ConvShape.of(x, factors.shape, lam.shape[0], shared, conv)
    if shape.images == 0:
        return _gradients_without_rows(x, weight, factors, lam, bias_dims, needs, layout)
    g, rays, groups = nhwc(grad), lam.shape[0], conv.groups
    common = weight if needs.x or needs.weight else None  # without these two, W's share of the gradient has no use
    dx, dweight, dfactors, dlam = None, None, None, None
    if needs.x or needs.weight or needs.factors:
        elements = _elements(common, factors)
        shares = conv_combine.spread(g, _coefficients(common, lam, torch.float32).contiguous(), groups, shared)
        want_kernel = needs.weight or needs.factors
        dx, dkernel = conv_library.backward(shares, x, _stacked(elements, groups), conv, needs.x, want_kernel)
        if dkernel is not None:
            delements = _unstacked(dkernel, elements.shape[0], groups)
            if needs.weight and common is not None:
                dweight = delements[0].contiguous()
            if needs.factors:
                into = factors.new_gradients()
                factors.pull_deltas(delements[-factors.tasks :], into)
                dfactors = factors.finish(into)
    if needs.lam:
        maps = conv_library.forward(x, _stacked(factors.deltas(), groups), conv)  # again rather than kept
        dlam = conv_combine.products(g, maps, rays, groups, shared)
    dbias = _bias_gradient(g, rays, bias_dims) if needs.bias else None
    return None if dx is None else restored(dx, layout), dweight, dbias, dfactors, dlam


CONV: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "merged": (partial(merged_forward, OURS), partial(merged_backward, OURS)),
    "library": (partial(merged_forward, LIBRARY), partial(merged_backward, LIBRARY)),
    "basis": (basis_forward, basis_backward),
    "factored": (factored_forward, factored_backward),
}
