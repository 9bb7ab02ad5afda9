"""Plans of convolutions on the GPU. All work on NHWC maps; others are copied on the way in and out.

``merged`` forms the kernels of all rays in one launch and convolves all rays in one launch; ``library`` convolves with
the same kernels ray by ray, with cuDNN. ``factored`` (matricised low-rank kernels, one group) lets the library convolve
with [W; B] and adds ``(S o Lam) A^T`` in one launch. ``basis`` lets it convolve with [W, D_1 .. D_T] and combines the
T+1 maps into M in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.eager.conv import appended, filters
from palora_kernels.eager.linear import coefficients, elements
from palora_kernels.triton.conv import adapters as conv_adapters
from palora_kernels.triton.conv import combine as conv_combine
from palora_kernels.triton.conv import gemm as conv_gemm
from palora_kernels.triton.conv import kernel_gradient as conv_kernel_gradient
from palora_kernels.triton.conv import library as conv_library
from palora_kernels.triton.conv import rays as conv_rays
from palora_kernels.triton.conv.kernel_gradient import KernelGradients
from palora_kernels.triton.conv.library import nhwc, restored
from palora_kernels.triton.conv.shapes import ConvShape
from palora_kernels.triton.launching.operands import out_side
from palora_kernels.triton.merge import merge
from palora_kernels.triton.merge import pull as merge_pull


def _dense(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.contiguous()


def _bias_gradient(call: Call, grad: Tensor) -> Tensor:
    """grad (M*n, Ho, Wo, O); the sum over columns is torch's: one launch, float32 inside, a fixed order."""
    O = grad.shape[3]
    return grad.view(-1, O).sum(0) if call.bias_dims == 1 else grad.view(call.rays, -1, O).sum(1)


# -------------------------------------------------------------------------------------------------------------- merged


@dataclass(frozen=True)
class Products:
    """Who convolves with the merged kernels, (M, O, kh, kw, C/groups); maps are NHWC."""

    forward: Callable[[Tensor, Tensor, Tensor | None, ConvShape], Tensor]
    input_gradient: Callable[[Tensor, Tensor, ConvShape], Tensor]
    kernel_gradients: Callable[[Tensor, Tensor, ConvShape, int], KernelGradients]


OURS = Products(conv_gemm.forward, conv_gemm.input_gradient, conv_kernel_gradient.kernel_gradients)
LIBRARY = Products(conv_rays.forward, conv_rays.input_gradient, conv_rays.kernel_gradients)


def merged_forward(products: Products, call: Call) -> tuple[Tensor, None]:
    kernels = merge.kernels_of_rays(call.weight, call.factors, call.lam)
    y = products.forward(nhwc(call.x), kernels, _dense(call.bias), ConvShape.of(call))
    return restored(y, call.layout), None


def merged_backward(products: Products, call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    shape, g = ConvShape.of(call), nhwc(grad)
    dx: Tensor | None = None
    if needs.x:
        # The kernels are formed again rather than kept: M weights are more than W and the factors.
        kernels = merge.kernels_of_rays(call.weight, call.factors, call.lam)
        dx = restored(products.input_gradient(g, kernels, shape), call.layout)
    if not needs.weights:
        return Gradients(dx, bias=_bias_gradient(call, g) if needs.bias else None)
    gradients = products.kernel_gradients(nhwc(call.x), g, shape, call.bias_dims if needs.bias else 0)
    dtype = call.x.dtype
    found = merge_pull.pull(
        call.factors,
        gradients.partial,
        call.lam,
        needs,
        lambda each, total: gradients.sums(dtype, each=each, total=total),
    )
    return found._replace(x=dx, bias=gradients.bias(dtype))


# ------------------------------------------------------------------------------------------------------------ factored


def factored_forward(call: Call) -> tuple[Tensor, None]:
    maps = conv_library.forward(call.x, appended(call.weight, call), call.geometry)
    base = 0 if call.weight is None else call.outputs
    A, _ = call.low_rank.given
    y = conv_adapters.outputs(maps, out_side(A), _dense(call.bias), call.lam, base, call.shared)
    return restored(y, call.layout), None


def factored_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    x, weight, conv, (A, B), g = call.x, call.weight, call.geometry, call.low_rank.given, nhwc(grad)
    maps = conv_library.forward(x, filters(call), conv) if needs.factors or needs.lam else None  # S again, not kept
    with_base = weight is not None and (needs.x or needs.weight)
    base = call.outputs if with_base else 0
    both, scaled, dlam = conv_adapters.gradients(
        g,
        out_side(A),
        call.lam,
        maps,
        base,
        call.shared,
        conv_adapters.Wanted(needs.x or needs.weight or needs.factors, needs.factors, needs.lam),
    )
    dx, dweight, dfactors = None, None, None
    if both is not None:
        kernel = appended(weight if with_base else None, call)
        only_b = with_base and needs.factors and not needs.weight  # a frozen W: its gradient is most of the work
        want_kernel = (needs.weight or needs.factors) and not only_b
        dx, dkernel = conv_library.backward(both, x, kernel, conv, needs.x, want_kernel)
        if only_b:
            _, dkernel = conv_library.backward(both[..., base:].contiguous(), x, filters(call), conv, False, True)
        if needs.weight and dkernel is not None:
            dweight = dkernel[:base].contiguous()
        if needs.factors and dkernel is not None and scaled is not None:
            dA = (g.view(-1, call.outputs).t() @ scaled).view(A.shape[1], A.shape[0], A.shape[2])
            dB = dkernel[-call.low_rank.columns :].reshape(B.shape)
            # A copy of dB: the results of an op may not share memory, and dW is in that of dkernel.
            dfactors = [dA.transpose(0, 1).contiguous(), dB.clone()]
    dbias = _bias_gradient(call, g) if needs.bias else None
    return Gradients(None if dx is None else restored(dx, call.layout), dweight, dbias, dfactors, dlam)


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


def basis_forward(call: Call) -> tuple[Tensor, None]:
    conv = call.geometry
    maps = conv_library.forward(call.x, _stacked(elements(call), conv.groups), conv)
    c = coefficients(call, torch.float32).contiguous()
    return restored(conv_combine.combine(maps, c, _dense(call.bias), conv.groups, call.shared), call.layout), None


def basis_backward(call: Call, grad: Tensor, S: None, needs: Needs) -> Gradients:
    x, conv, g, groups = call.x, call.geometry, nhwc(grad), call.geometry.groups
    if not (needs.x or needs.weight):  # without these two, W's share of the gradient has no use
        call = replace(call, weight=None)
    dx, dweight, dfactors, dlam = None, None, None, None
    if needs.x or needs.weight or needs.factors:
        parts = elements(call)
        shares = conv_combine.spread(g, coefficients(call, torch.float32).contiguous(), groups, call.shared)
        want_kernel = needs.weight or needs.factors
        dx, dkernel = conv_library.backward(shares, x, _stacked(parts, groups), conv, needs.x, want_kernel)
        if dkernel is not None:
            dparts = _unstacked(dkernel, parts.shape[0], groups)
            dweight = dparts[0].contiguous() if needs.weight else None
            dfactors = call.factors.pull_deltas(dparts[-call.factors.tasks :]) if needs.factors else None
    if needs.lam:
        maps = conv_library.forward(x, _stacked(call.factors.deltas(), groups), conv)  # again rather than kept
        dlam = conv_combine.products(g, maps, call.rays, groups, call.shared)
    dbias = _bias_gradient(call, g) if needs.bias else None
    return Gradients(None if dx is None else restored(dx, call.layout), dweight, dbias, dfactors, dlam)


PLANS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "merged": (partial(merged_forward, OURS), partial(merged_backward, OURS)),
    "library": (partial(merged_forward, LIBRARY), partial(merged_backward, LIBRARY)),
    "basis": (basis_forward, basis_backward),
    "factored": (factored_forward, factored_backward),
}
