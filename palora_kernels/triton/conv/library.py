"""Convolutions that are left to the library (cuDNN, MIOpen) through torch, and the layouts around them.

Their float32 precision is what torch.backends.cudnn.conv says, and that of the kernels here too (`configs.conv_kind`):
a layer does not change its precision with its plan, and no setting is changed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from palora_kernels.call import Geometry
from palora_kernels.triton.launching import configs


def forward(x: Tensor, kernel: Tensor, conv: Geometry) -> Tensor:
    """x (P, C, H, W), kernel (O, C/groups, kh, kw) -> (P, Ho, Wo, O)."""
    y = conv.forward(
        x.contiguous(memory_format=torch.channels_last), kernel.contiguous(memory_format=torch.channels_last), None
    )
    return nhwc(y)


def write(x: Tensor, kernel: Tensor, conv: Geometry, out: Tensor) -> None:
    """As `forward`, into ``out`` (P, O, Ho, Wo), channels_last. Of the libraries only cuDNN is offered by torch with a
    place for its result; from the others it is copied."""
    if x.device.type == "cuda" and torch.version.hip is None and torch.backends.cudnn.enabled:
        torch.ops.aten.cudnn_convolution.out(
            x,
            kernel,
            conv.padding,
            conv.stride,
            conv.dilation,
            conv.groups,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled(),
            configs.conv_precision(x.dtype) == "tf32",
            out=out,
        )
    else:
        out.copy_(forward(x, kernel, conv).permute(0, 3, 1, 2))


def backward(
    grad: Tensor, x: Tensor, kernel: Tensor, conv: Geometry, need_x: bool, need_kernel: bool
) -> tuple[Tensor | None, Tensor | None]:
    """grad (P, Ho, Wo, O) -> the gradients of x as (P, H, W, C) and of the kernel as (O, C/groups, kh, kw)."""
    dx, dkernel, _ = conv.backward(
        grad.permute(0, 3, 1, 2),
        x.contiguous(memory_format=torch.channels_last),
        kernel.contiguous(memory_format=torch.channels_last),
        need_x,
        need_kernel,
    )
    return nhwc(dx) if need_x else None, dkernel.contiguous() if need_kernel else None


def nhwc(t: Tensor) -> Tensor:
    """(P, C, H, W) of any strides -> (P, H, W, C), dense; a view where t is channels_last."""
    return t.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def restored(t: Tensor, layout: torch.memory_format) -> Tensor:
    """(P, H, W, C), dense -> (P, C, H, W) with the strides of a fresh tensor of that layout."""
    P, H, W, C = t.shape
    if layout == torch.channels_last:
        return t.permute(0, 3, 1, 2)
    if C == 1 or H * W == 1:
        return t.view(P, C, H, W)  # one memory order for both; `contiguous` would keep the strides of the other
    return t.permute(0, 3, 1, 2).contiguous()
