"""The ops as PyTorch sees them: schemas, implementations, shapes for the compiler, and gradients.

Namespace ``palora``. Each op carries the name of its plan, chosen before the call, so that one schema serves every
backend and the compiler sees one opaque node with its own backward op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager.conv import Geometry, memory_format
from palora_kernels.eager.factors import Dense, Factors, LowRank, Needs
from palora_kernels.implementations import pair
from palora_kernels.triton import replay

LIBRARY = torch.library.Library("palora", "DEF")
# The plans of `linear` whose forward keeps S = X B^T for the backward.
KEEP_S = ("factored", "split", "splitk", "library", "persistent")

_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "
_TAIL = "bool shared, str plan"
_HEAD = "Tensor x, Tensor? weight, Tensor? bias, "
_BACK = "Tensor grad, Tensor x, Tensor? weight, "
_MASK = "int bias_dims, bool[] needs, "
Gradients = tuple[Tensor, ...]
_GRADIENTS_2 = f"({', '.join(['Tensor'] * 6)})"  # of x, weight, bias, two factors, lam
_GRADIENTS_1 = f"({', '.join(['Tensor'] * 5)})"


def _define(name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    LIBRARY.define(f"{name}{schema}")
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"palora::{name}", fake, lib=LIBRARY)


def _pack(x: Tensor, gradients: Any, count: int) -> Gradients:
    """Gradients without gaps: what was not asked for is an empty tensor.

    Not a list: is_grads_batched=True can call an op for every gradient only if each result is a tensor.
    """
    dx, dweight, dbias, factors, dlam = gradients
    return tuple(x.new_empty(0) if g is None else g for g in (dx, dweight, dbias, *(factors or [None] * count), dlam))


def _packed(backward: Callable[..., Any], count: int) -> Callable[..., Gradients]:
    """What the operator returns, where ``backward`` returns gradients of ``count`` factors as the plans do."""

    def packed(grad: Tensor, x: Tensor, *rest: Any) -> Gradients:
        return _pack(x, backward(grad, x, *rest), count)

    return packed


def _remembered(function: Callable[..., Any], tensors: int) -> Callable[..., Any]:
    """The same, but what a Triton plan chose and built for equal layouts of its first arguments is not done again."""

    def call(*arguments: Any) -> Any:
        if arguments[-1].startswith("triton."):
            return replay.perform(function, arguments[:tensors], arguments[tensors:])
        return function(*arguments)

    return call


def _fake_gradients(
    x: Tensor,
    dx: Callable[[], Tensor],
    weight: Tensor | None,
    bias: list[int],
    factors: list[Tensor],
    lam: Tensor,
    needs: list[bool],
) -> Gradients:
    n = Needs(*needs)
    return (
        dx() if n.x else x.new_empty(0),
        x.new_empty(weight.shape) if n.weight and weight is not None else x.new_empty(0),
        x.new_empty(bias) if n.bias else x.new_empty(0),
        *[x.new_empty(f.shape) if n.factors else x.new_empty(0) for f in factors],
        lam.new_empty(lam.shape) if n.lam else x.new_empty(0),
    )


def _pair(table: str, plan: str, x: Tensor, *factors: Tensor) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`pair`; for factors without a number (no inputs, outputs, tasks or columns) a plan without kernels."""
    if all(factor.numel() for factor in factors):
        return pair(table, plan, x.device.type)
    keeps = table == "LOW_RANK" and plan.split(".")[1] in KEEP_S
    return pair(table, "eager.factored" if keeps else "eager.merged", x.device.type)


def _rows(x: Tensor, lam: Tensor, shared: bool) -> Any:
    return x.shape[0] * lam.shape[0] if shared else x.shape[0]


def _bias_shape(bias_dims: int, outputs: Any, lam: Tensor) -> list[Any]:
    return [outputs] if bias_dims == 1 else [lam.shape[0], outputs]


# ---------------------------------------------------------------------------------------------------- linear, low-rank


def _linear(x: Any, weight: Any, bias: Any, A: Any, B: Any, lam: Any, shared: bool, plan: str) -> Any:
    forward, _ = _pair("LOW_RANK", plan, x, A, B)
    y, S = forward(x, weight, bias, A, B, lam, shared)
    return y, x.new_empty(0) if S is None else S


def _linear_fake(x: Any, weight: Any, bias: Any, A: Any, B: Any, lam: Any, shared: bool, plan: str) -> Any:
    y = x.new_empty(_rows(x, lam, shared), A.shape[1])
    keeps = plan.split(".")[1] in KEEP_S
    return y, x.new_empty(x.shape[0], A.shape[0] * A.shape[2]) if keeps else x.new_empty(0)


def _linear_backward(grad: Any, x: Any, weight: Any, A: Any, B: Any, lam: Any, S: Any, *call: Any) -> Any:
    bias_dims, needs, shared, plan = call
    _, backward = _pair("LOW_RANK", plan, x, A, B)
    return backward(grad, x, weight, A, B, lam, S, bias_dims, shared, Needs(*needs))


def _linear_backward_fake(grad: Any, x: Any, weight: Any, A: Any, B: Any, lam: Any, S: Any, *call: Any) -> Gradients:
    bias_dims, needs, _, _ = call
    bias = _bias_shape(bias_dims, A.shape[1], lam)
    return _fake_gradients(x, lambda: x.new_empty(x.shape), weight, bias, [A, B], lam, needs)


# ------------------------------------------------------------------------------------------------------- linear, dense


def _linear_delta(x: Any, weight: Any, bias: Any, D: Any, lam: Any, shared: bool, plan: str) -> Any:
    forward, _ = _pair("DENSE", plan, x, D)
    return forward(x, weight, bias, D, lam, shared)


def _linear_delta_fake(x: Any, weight: Any, bias: Any, D: Any, lam: Any, shared: bool, plan: str) -> Tensor:
    return x.new_empty(_rows(x, lam, shared), D.shape[1])


def _linear_delta_backward(grad: Any, x: Any, weight: Any, D: Any, lam: Any, *call: Any) -> Any:
    bias_dims, needs, shared, plan = call
    _, backward = _pair("DENSE", plan, x, D)
    return backward(grad, x, weight, D, lam, bias_dims, shared, Needs(*needs))


def _linear_delta_backward_fake(grad: Any, x: Any, weight: Any, D: Any, lam: Any, *call: Any) -> Gradients:
    bias_dims, needs, _, _ = call
    bias = _bias_shape(bias_dims, D.shape[1], lam)
    return _fake_gradients(x, lambda: x.new_empty(x.shape), weight, bias, [D], lam, needs)


# --------------------------------------------------------------------------------------------------------- convolution
# `geometry` is stride, padding, dilation and groups; `shape` the kernel's (O, C/groups, kh, kw).


def _layout(x: Tensor, weight: Tensor | None, D: Tensor | None = None) -> torch.memory_format:
    reference = weight if weight is not None else (x if D is None else D[0])
    return memory_format(x, reference)


def _empty(x: Tensor, size: list[Any], layout: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _conv(x: Any, weight: Any, bias: Any, factors: Factors, lam: Any, layout: Any, *call: Any) -> Tensor:
    *geometry, shared, plan = call
    forward, _ = _pair("CONV", plan, x, *factors.given)
    y: Tensor = forward(x, weight, bias, factors, lam, shared, Geometry(*geometry), layout)
    return y


def _conv_fake(x: Tensor, lam: Tensor, shape: Any, layout: torch.memory_format, *call: Any) -> Tensor:
    *geometry, shared, _ = call
    size = Geometry(*geometry).output_size(x, (shape[2], shape[3]))
    return _empty(x, [_rows(x, lam, shared), shape[0], *size], layout)


def _conv_backward(grad: Any, x: Any, weight: Any, factors: Factors, lam: Any, layout: Any, *call: Any) -> Any:
    *geometry, bias_dims, needs, shared, plan = call
    _, backward = _pair("CONV", plan, x, *factors.given)
    return backward(grad, x, weight, factors, lam, bias_dims, shared, Needs(*needs), Geometry(*geometry), layout)


def _conv_backward_fake(
    x: Any, weight: Any, factors: list[Tensor], lam: Any, outputs: Any, layout: Any, *call: Any
) -> Gradients:
    *_, bias_dims, needs, _, _ = call
    bias = _bias_shape(bias_dims, outputs, lam)
    return _fake_gradients(x, lambda: _empty(x, list(x.shape), layout), weight, bias, factors, lam, needs)


def _conv2d(x: Any, weight: Any, bias: Any, A: Any, B: Any, lam: Any, shape: Any, *call: Any) -> Tensor:
    return _conv(x, weight, bias, LowRank(A, B, shape), lam, _layout(x, weight), *call)


def _conv2d_fake(x: Any, weight: Any, bias: Any, A: Any, B: Any, lam: Any, shape: Any, *call: Any) -> Tensor:
    return _conv_fake(x, lam, shape, _layout(x, weight), *call)


def _conv2d_backward(grad: Any, x: Any, weight: Any, A: Any, B: Any, lam: Any, shape: Any, *call: Any) -> Any:
    return _conv_backward(grad, x, weight, LowRank(A, B, shape), lam, _layout(x, weight), *call)


def _conv2d_backward_fake(
    grad: Any, x: Any, weight: Any, A: Any, B: Any, lam: Any, shape: Any, *call: Any
) -> Gradients:
    return _conv_backward_fake(x, weight, [A, B], lam, shape[0], _layout(x, weight), *call)


def _conv2d_delta(x: Any, weight: Any, bias: Any, D: Any, lam: Any, *call: Any) -> Tensor:
    return _conv(x, weight, bias, Dense(D), lam, _layout(x, weight, D), *call)


def _conv2d_delta_fake(x: Any, weight: Any, bias: Any, D: Any, lam: Any, *call: Any) -> Tensor:
    return _conv_fake(x, lam, D.shape[1:], _layout(x, weight, D), *call)


def _conv2d_delta_backward(grad: Any, x: Any, weight: Any, D: Any, lam: Any, *call: Any) -> Any:
    return _conv_backward(grad, x, weight, Dense(D), lam, _layout(x, weight, D), *call)


def _conv2d_delta_backward_fake(grad: Any, x: Any, weight: Any, D: Any, lam: Any, *call: Any) -> Gradients:
    return _conv_backward_fake(x, weight, [D], lam, D.shape[1], _layout(x, weight, D), *call)


_SHAPE = "SymInt[] shape, "
_define(
    "linear",
    f"({_HEAD}Tensor A, Tensor B, Tensor lam, {_TAIL}) -> (Tensor, Tensor)",
    _remembered(_linear, 6),
    _linear_fake,
)
_define(
    "linear_backward",
    f"({_BACK}Tensor A, Tensor B, Tensor lam, Tensor S, {_MASK}{_TAIL}) -> {_GRADIENTS_2}",
    _packed(_remembered(_linear_backward, 7), 2),
    _linear_backward_fake,
)
_define(
    "linear_delta",
    f"({_HEAD}Tensor D, Tensor lam, {_TAIL}) -> Tensor",
    _remembered(_linear_delta, 5),
    _linear_delta_fake,
)
_define(
    "linear_delta_backward",
    f"({_BACK}Tensor D, Tensor lam, {_MASK}{_TAIL}) -> {_GRADIENTS_1}",
    _packed(_remembered(_linear_delta_backward, 5), 1),
    _linear_delta_backward_fake,
)
_define(
    "conv2d",
    f"({_HEAD}Tensor A, Tensor B, Tensor lam, {_SHAPE}{_GEOMETRY}{_TAIL}) -> Tensor",
    _remembered(_conv2d, 6),
    _conv2d_fake,
)
_define(
    "conv2d_backward",
    f"({_BACK}Tensor A, Tensor B, Tensor lam, {_SHAPE}{_GEOMETRY}{_MASK}{_TAIL}) -> {_GRADIENTS_2}",
    _packed(_remembered(_conv2d_backward, 6), 2),
    _conv2d_backward_fake,
)
_define(
    "conv2d_delta",
    f"({_HEAD}Tensor D, Tensor lam, {_GEOMETRY}{_TAIL}) -> Tensor",
    _remembered(_conv2d_delta, 5),
    _conv2d_delta_fake,
)
_define(
    "conv2d_delta_backward",
    f"({_BACK}Tensor D, Tensor lam, {_GEOMETRY}{_MASK}{_TAIL}) -> {_GRADIENTS_1}",
    _packed(_remembered(_conv2d_delta_backward, 5), 1),
    _conv2d_delta_backward_fake,
)

# Forward and backward of each op, without the dispatcher: backwards return the gradients as the plans do.
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "linear": (_linear, _linear_backward),
    "linear_delta": (_linear_delta, _linear_delta_backward),
    "conv2d": (_conv2d, _conv2d_backward),
    "conv2d_delta": (_conv2d_delta, _conv2d_delta_backward),
}
