"""Batch normalisation of M rays in one pass, as M passes of torch's would have normalised and counted: on a GPU in two
launches instead of three a ray, and without the slices and the concatenation of a loop."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from palora_kernels.backends import batched, resolve, under_functorch


class Running(NamedTuple):
    """The statistics that evaluation uses, updated in place once a ray; seen: num_batches_tracked, read only where
    momentum is None (a cumulative average)."""

    mean: Tensor
    var: Tensor
    seen: Tensor | None


def ray_batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    rays: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """y = (x - mean_m) / sqrt(var_m + eps) * weight + bias, with mean and (biased) variance of ray m's rows and
    positions, a channel each.

    x (M*n, C, ...), ray-major, any floating dtype; weight and bias (C) or both None. Same values and gradients as M
    calls of torch.nn.functional.batch_norm, one a ray, and running statistics as after these M updates. Raises
    ValueError where a ray has one value a channel, as torch does.
    """
    if _fusable(x, weight, bias, rays):
        y: Tensor = _Fused.apply(x, weight, bias, running, rays, momentum, eps)
        return y
    return _looped(x, weight, bias, running, rays, momentum, eps)


def _looped(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: Running | None,
    rays: int,
    momentum: float | None,
    eps: float,
) -> Tensor:
    # In one split: its gradient is one concatenation, where M slices would each fill and add a whole batch.
    parts = []
    for ray, part in enumerate(x.split([x.shape[0] // rays] * rays)):
        factor = momentum
        if factor is None:
            factor = 0.0 if running is None or running.seen is None else 1.0 / (float(running.seen) + ray + 1)
        mean, var = (None, None) if running is None else (running.mean, running.var)
        parts.append(F.batch_norm(part, mean, var, weight, bias, True, factor, eps))
    return torch.cat(parts)


def _fusable(x: Tensor, weight: Tensor | None, bias: Tensor | None, rays: int) -> bool:
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and (weight is None) == (bias is None)
        and x.numel() > rays * x.shape[1] > 0
        and not under_functorch()
        and resolve(None, x.device, x.dtype) == "triton"
    )


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: Running | None,
        rays: int,
        momentum: float | None,
        eps: float,
    ) -> Tensor:
        from palora_kernels.triton import norm
        from palora_kernels.triton.launching import replay

        tensors = (x, weight, bias, *(running or (None, None, None)))
        y, mean, scale = replay.perform(norm.forward, tensors, ((rays, momentum, eps),))
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.rays, ctx.eps = rays, eps
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        from palora_kernels.triton import norm
        from palora_kernels.triton.launching import replay

        x, weight, bias, mean, scale = ctx.saved_tensors
        needs = ctx.needs_input_grad
        again = torch.is_grad_enabled()
        if again or batched(grads[0]):  # to be differentiated again, or for many gradients: by torch's own operations
            with torch.enable_grad():
                y = _looped(x, weight, bias, None, ctx.rays, 0.0, ctx.eps)
            inputs = [t for t, needed in zip((x, weight, bias), needs, strict=False) if needed]
            found = iter(torch.autograd.grad(y, inputs, grads[0], create_graph=again))
            return (*(next(found) if needed else None for needed in needs[:3]), *[None] * 4)
        wanted = (needs[0], needs[1] or needs[2])
        dx, dw, db = replay.perform(norm.backward, (grads[0], x, weight, mean, scale), (ctx.rays, wanted))
        return dx, dw if needs[1] else None, db if needs[2] else None, *[None] * 4
