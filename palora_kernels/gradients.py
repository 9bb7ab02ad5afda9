"""How autograd differentiates the ops: each calls its own backward op, for the gradients that are needed only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from palora_kernels.library import LIBRARY

# Positions: x, weight, bias, A, B, lam, then everything that is not a tensor.


def needs(flags: Sequence[bool]) -> list[bool]:
    """As `palora_kernels.call.Needs`, from a flag for each tensor."""
    return [flags[0], flags[1], flags[2], flags[3] or flags[4], flags[5]]


def unpack(grads: Sequence[Tensor], flags: Sequence[bool], dense: bool) -> tuple[Tensor | None, ...]:
    """Empty stand-ins back to None; ``dense``: there is no B."""
    x, weight, bias, factors, lam = needs(flags)
    wanted = (x, weight, bias, factors, factors and not dense, lam)
    return tuple([g if w else None for g, w in zip(grads, wanted, strict=True)])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, A, B, lam, *ctx.rest = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, A, B, lam, output[1])
    ctx.bias_dims = 0 if bias is None else bias.dim()


def _differentiator(op: Any) -> Callable[..., Any]:
    def backward(ctx: Any, grad: Tensor | None, *unused: Any) -> Any:
        rest = [None] * len(ctx.rest)
        if grad is None:
            return *[None] * 6, *rest
        flags, saved = ctx.needs_input_grad, ctx.saved_tensors
        *conv, shared, plan = ctx.rest
        grads = op(grad, *saved, *conv, ctx.bias_dims, needs(flags), shared, plan)
        return *unpack(grads, flags, dense=saved[3] is None), *rest

    return backward


def _refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "palora_kernels does not differentiate its backward a second time; "
        'use backend="reference" (or PALORA_BACKEND=reference) for double backward.'
    )


for _name in ("linear", "conv2d"):
    _backward = getattr(torch.ops.palora, f"{_name}_backward").default
    torch.library.register_autograd(f"palora::{_name}", _differentiator(_backward), setup_context=_save, lib=LIBRARY)
    torch.library.register_autograd(f"palora::{_name}_backward", _refuse, lib=LIBRARY)
