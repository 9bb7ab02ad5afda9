"""2 x 2 max-pooling followed by ReLU, in one pass where the C++ extension can: next to fused layers it is what is left
of a small network's step on a CPU (a third of LeNet's, forward and backward, in torch's two operations)."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from palora_kernels.backends import batched, resolve, under_functorch


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, which = torch.ops.palora_native.max_pool_relu.default(x)
        ctx.save_for_backward(which)
        ctx.size = x.shape[2:]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        (which,) = ctx.saved_tensors
        if batched(grads[0]):
            return _one_by_one()(grads[0], which, *ctx.size)
        return _backward(grads[0], which, *ctx.size)


def _backward(grad: Tensor, which: Tensor, height: int, width: int) -> Tensor:
    grad = grad.contiguous(memory_format=torch.channels_last)
    dx: Tensor = torch.ops.palora_native.max_pool_relu_backward.default(grad, which, height, width)
    return dx


@functools.cache
def _one_by_one() -> Any:
    """The same as an op with a rule of vmap."""
    from palora_kernels.watching import one_by_one

    op = torch.library.custom_op("palora::max_pool_relu_backward", _backward, mutates_args=())
    op.register_vmap(one_by_one(op))
    return op


def max_pool_relu(x: Tensor) -> Tensor:
    """``relu(max_pool2d(x, 2))``: x (N, C, H, W) -> (N, C, H//2, W//2), any floating dtype.

    channels_last input on a CPU is pooled in one pass by the extension; everything else, and whatever runs under
    torch.compile or torch.func, is torch's two operations. Same values, NaN included, and the same gradients.
    """
    if _fusable(x):
        result: Tensor = _Fused.apply(x)
        return result
    return F.relu(F.max_pool2d(x, 2))


def _fusable(x: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and min(x.shape[2:]) >= 2
        and not under_functorch()
        and resolve(None, x.device, x.dtype) == "native"
    )
