"""The products of the plan ``library`` of `conv2d`: one convolution of cuDNN's or MIOpen's a ray.

They take the place of `conv_gemm` and `conv_kernel_gradient`, arguments and results alike. Rays one after another read
and write what one launch would; with groups = M the library would first transpose every map.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from palora_kernels.call import Geometry
from palora_kernels.triton.conv import library as conv_library
from palora_kernels.triton.conv.kernel_gradient import KernelGradients
from palora_kernels.triton.conv.shapes import ConvShape


def _geometry(shape: ConvShape) -> Geometry:
    return Geometry(list(shape.stride), list(shape.padding), list(shape.dilation), shape.groups)


def _images(t: Tensor) -> Tensor:
    """(.., H, W, C) as the library takes it, (.., C, H, W) with the strides of channels_last."""
    return t.permute(0, 3, 1, 2)


def _of_rays(t: Tensor, shape: ConvShape, shared: bool = False) -> Iterator[Tensor]:
    """The images of each ray, a view; all of them for every ray if ``shared``."""
    for m in range(shape.rays):
        yield t if shared else t[m * shape.images : (m + 1) * shape.images]


def forward(x: Tensor, kernels: Tensor, bias: Tensor | None, shape: ConvShape) -> Tensor:
    """x (P, H, W, C), kernels (M, O, kh, kw, C/groups) -> (M*n, Ho, Wo, O). As in torch, the bias is a pass of its
    own."""
    y = x.new_empty(shape.rays * shape.images, shape.out_h, shape.out_w, shape.outputs)
    parts = zip(_of_rays(x, shape, shape.shared), kernels, _of_rays(y, shape), strict=True)
    for rows, kernel, out in parts:
        conv_library.write(_images(rows), _images(kernel), _geometry(shape), _images(out))
    if bias is not None:
        y.view(shape.rays, -1, shape.outputs).add_(bias.view(-1, 1, shape.outputs))
    return y


def input_gradient(grad: Tensor, kernels: Tensor, shape: ConvShape) -> Tensor:
    """grad (M*n, Ho, Wo, O) -> (P, H, W, C); over a shared input the rays' gradients are added in float32."""
    dtype = torch.float32 if shape.shared else grad.dtype
    rows = shape.images * (1 if shape.shared else shape.rays)
    dx = grad.new_empty(rows, shape.in_h, shape.in_w, shape.inputs, dtype=dtype)
    # What the library asks for is the shape of x; its values have no part in this gradient.
    like = _images(grad.new_empty(shape.images, shape.in_h, shape.in_w, shape.inputs))
    parts = zip(_of_rays(grad, shape), kernels, _of_rays(dx, shape, shape.shared), strict=True)
    for m, (g, kernel, out) in enumerate(parts):
        found, _ = conv_library.backward(g, like, _images(kernel), _geometry(shape), True, False)
        assert found is not None
        if shape.shared and m > 0:
            out.add_(found)
        else:
            out.copy_(found)
    return dx.to(grad.dtype)


def kernel_gradients(x: Tensor, grad: Tensor, shape: ConvShape, bias_dims: int = 0) -> KernelGradients:
    """x (P, H, W, C), grad (M*n, Ho, Wo, O) -> the gradients of the rays' kernels, and of the bias if ``bias_dims``.

    Each as the library rounds it to the dtype of ``x``; what follows is summed in float32.
    """
    numel = shape.outputs * shape.taps * shape.group_inputs
    part = numel + (shape.outputs if bias_dims else 0)
    partial = x.new_empty((shape.rays, 1, part), dtype=torch.float32)
    like = x.new_empty(shape.outputs, shape.group_inputs, *shape.kernel)  # its shape, as above
    parts = zip(_of_rays(x, shape, shape.shared), _of_rays(grad, shape), partial[:, 0], strict=True)
    for rows, g, out in parts:
        _, found = conv_library.backward(g, _images(rows), like, _geometry(shape), False, True)
        assert found is not None
        out[:numel].view(shape.outputs, *shape.kernel, shape.group_inputs).copy_(found.permute(0, 2, 3, 1))
    if bias_dims:
        sums = grad.view(shape.rays, -1, shape.outputs).sum(1, dtype=torch.float32)
        partial[:, 0, numel:].copy_(sums)
    return KernelGradients(partial, shape, bias_dims)
