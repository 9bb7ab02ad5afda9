"""How autograd differentiates the ops: each calls its own backward op, for the gradients that are needed only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from palora_kernels.library import LIBRARY

# Positions: x, weight, bias, then the factors (A and B, or D), then lam, then everything that is not a tensor.


def _needs(ctx: Any, factors: int) -> list[bool]:
    flags = ctx.needs_input_grad
    return [flags[0], flags[1], flags[2], any(flags[3 : 3 + factors]), flags[3 + factors]]


def unpack(grads: Sequence[Tensor | None], needs: list[bool], factors: int, rest: int) -> tuple[Tensor | None, ...]:
    """Empty stand-ins back to None, and a None for every argument that is not a tensor."""
    wanted = [*needs[:3], *[needs[3]] * factors, needs[4]]
    return (*[g if w else None for g, w in zip(grads, wanted, strict=True)], *[None] * rest)


def _saver(factors: int) -> Callable[..., None]:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, weight, bias = inputs[:3]
        tensors = [x, weight, *inputs[3 : 4 + factors]]
        if isinstance(output, tuple):
            tensors.append(output[1])  # S of the factored linear plan
            ctx.mark_non_differentiable(output[1])
            ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.bias_dims = 0 if bias is None else bias.dim()
        ctx.rest = inputs[4 + factors :]

    return setup_context


def _differentiator(op: Any, factors: int) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor | None, *unused: Any) -> Any:
        needs = _needs(ctx, factors)
        if grad is None:
            return unpack([None] * (4 + factors), [False] * 5, factors, len(ctx.rest))
        *geometry, shared, plan = ctx.rest
        grads = op(grad, *ctx.saved_tensors, *geometry, ctx.bias_dims, needs, shared, plan)
        return unpack(grads, needs, factors, len(ctx.rest))

    return backward


def _refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "palora_kernels does not differentiate its backward a second time; "
        'use backend="reference" (or PALORA_BACKEND=reference) for double backward.'
    )


def _register(name: str, factors: int) -> None:
    op = getattr(torch.ops.palora, f"{name}_backward").default
    torch.library.register_autograd(
        f"palora::{name}", _differentiator(op, factors), setup_context=_saver(factors), lib=LIBRARY
    )
    torch.library.register_autograd(f"palora::{name}_backward", _refuse, lib=LIBRARY)


for _name, _factors in (("linear", 2), ("linear_delta", 1), ("conv2d", 2), ("conv2d_delta", 1)):
    _register(_name, _factors)
