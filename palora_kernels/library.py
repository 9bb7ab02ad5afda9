"""The ops as PyTorch sees them: schemas, implementations, shapes for the compiler, and gradients.

Namespace ``palora``. Each op carries the name of its plan, chosen before the call, so that one schema serves every
backend and the compiler sees one opaque node with its own backward op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from palora_kernels.eager import conv as eager_conv
from palora_kernels.eager import linear as eager_linear
from palora_kernels.eager.factors import Dense, Factors, LowRank, Needs
from palora_kernels.native import conv as native_conv
from palora_kernels.native import linear as native_linear

LIBRARY = torch.library.Library("palora", "DEF")

_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "
_TAIL = "bool shared, str plan"
_HEAD = "Tensor x, Tensor? weight, Tensor? bias, "
_BACK = "Tensor grad, Tensor x, Tensor? weight, "
_MASK = "int bias_dims, bool[] needs, "


def _define(name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    LIBRARY.define(f"{name}{schema}")
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"palora::{name}", fake, lib=LIBRARY)


def _pack(x: Tensor, dx: Any, dweight: Any, dbias: Any, factors: Any, dlam: Any, count: int) -> list[Tensor]:
    """Gradients as a list without gaps: what was not asked for is an empty tensor."""
    grads = [dx, dweight, dbias, *(factors or [None] * count), dlam]
    return [x.new_empty(0) if g is None else g for g in grads]


def _fake_gradients(
    x: Tensor,
    dx: Callable[[], Tensor],
    weight: Tensor | None,
    bias: list[int],
    factors: list[Tensor],
    lam: Tensor,
    needs: list[bool],
) -> list[Tensor]:
    n = Needs(*needs)
    return [
        dx() if n.x else x.new_empty(0),
        x.new_empty(weight.shape) if n.weight and weight is not None else x.new_empty(0),
        x.new_empty(bias) if n.bias else x.new_empty(0),
        *[x.new_empty(f.shape) if n.factors else x.new_empty(0) for f in factors],
        lam.new_empty(lam.shape) if n.lam else x.new_empty(0),
    ]


def _rows(x: Tensor, lam: Tensor, shared: bool) -> Any:
    return x.shape[0] * lam.shape[0] if shared else x.shape[0]


def _bias_shape(bias_dims: int, outputs: Any, lam: Tensor) -> list[Any]:
    return [outputs] if bias_dims == 1 else [lam.shape[0], outputs]


def _algorithm(plan: str) -> str:
    return plan.split(".")[1]


def _linear_module(plan: str) -> Any:
    """Where the factored plan of a backend lives; the other plans of `linear` are the eager ones for every backend."""
    return native_linear if plan.startswith("native.") else eager_linear


def _conv_module(plan: str) -> Any:
    return native_conv if plan.startswith("native.") else eager_conv


# ---------------------------------------------------------------------------------------------------- linear, low-rank


def _linear(x: Any, weight: Any, bias: Any, A: Any, B: Any, lam: Any, shared: bool, plan: str) -> Any:
    if _algorithm(plan) == "factored":
        return _linear_module(plan).factored_forward(x, weight, bias, A, B, lam, shared)
    factors = LowRank(A, B, (A.shape[1], B.shape[2]))
    return eager_linear.FORWARD[_algorithm(plan)](x, weight, bias, factors, lam, shared), x.new_empty(0)


def _linear_fake(x: Any, weight: Any, bias: Any, A: Any, B: Any, lam: Any, shared: bool, plan: str) -> Any:
    y = x.new_empty(_rows(x, lam, shared), A.shape[1])
    keeps = _algorithm(plan) == "factored"
    return y, x.new_empty(x.shape[0], A.shape[0] * A.shape[2]) if keeps else x.new_empty(0)


def _linear_backward(
    grad: Any,
    x: Any,
    weight: Any,
    A: Any,
    B: Any,
    lam: Any,
    S: Any,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    grad = grad.contiguous()
    result: eager_linear.Gradients
    if _algorithm(plan) == "factored":
        result = _linear_module(plan).factored_backward(
            grad, x, weight, A, B, lam, S, bias_dims, shared, Needs(*needs)
        )
    else:
        factors = LowRank(A, B, (A.shape[1], B.shape[2]))
        result = eager_linear.BACKWARD[_algorithm(plan)](
            grad, x, weight, factors, lam, bias_dims, shared, Needs(*needs)
        )
    return _pack(x, *result, count=2)


def _linear_backward_fake(
    grad: Any,
    x: Any,
    weight: Any,
    A: Any,
    B: Any,
    lam: Any,
    S: Any,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    bias = _bias_shape(bias_dims, A.shape[1], lam)
    return _fake_gradients(x, lambda: x.new_empty(x.shape), weight, bias, [A, B], lam, needs)


# ------------------------------------------------------------------------------------------------------- linear, dense


def _linear_delta(x: Any, weight: Any, bias: Any, D: Any, lam: Any, shared: bool, plan: str) -> Tensor:
    return eager_linear.FORWARD[_algorithm(plan)](x, weight, bias, Dense(D), lam, shared)


def _linear_delta_fake(x: Any, weight: Any, bias: Any, D: Any, lam: Any, shared: bool, plan: str) -> Tensor:
    return x.new_empty(_rows(x, lam, shared), D.shape[1])


def _linear_delta_backward(
    grad: Any,
    x: Any,
    weight: Any,
    D: Any,
    lam: Any,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    backward = eager_linear.BACKWARD[_algorithm(plan)]
    result = backward(grad.contiguous(), x, weight, Dense(D), lam, bias_dims, shared, Needs(*needs))
    return _pack(x, *result, count=1)


def _linear_delta_backward_fake(
    grad: Any,
    x: Any,
    weight: Any,
    D: Any,
    lam: Any,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    bias = _bias_shape(bias_dims, D.shape[1], lam)
    return _fake_gradients(x, lambda: x.new_empty(x.shape), weight, bias, [D], lam, needs)


# --------------------------------------------------------------------------------------------------------- convolution


def _layout(x: Tensor, weight: Tensor | None, D: Tensor | None) -> torch.memory_format:
    reference = weight if weight is not None else (x if D is None else D[0])
    return eager_conv.memory_format(x, reference)


def _empty(x: Tensor, size: list[Any], layout: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=layout)


def _conv2d(
    x: Any,
    weight: Any,
    bias: Any,
    A: Any,
    B: Any,
    lam: Any,
    shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    shared: bool,
    plan: str,
) -> Tensor:
    conv = eager_conv.Geometry(stride, padding, dilation, groups)
    forward = _conv_module(plan).FORWARD[_algorithm(plan)]
    return forward(x, weight, bias, LowRank(A, B, shape), lam, shared, conv, _layout(x, weight, None))


def _conv_fake(
    x: Tensor, lam: Tensor, shape: Any, conv: eager_conv.Geometry, shared: bool, layout: torch.memory_format
) -> Tensor:
    size = conv.output_size(x, (shape[2], shape[3]))
    return _empty(x, [_rows(x, lam, shared), shape[0], *size], layout)


def _conv2d_fake(
    x: Any,
    weight: Any,
    bias: Any,
    A: Any,
    B: Any,
    lam: Any,
    shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    shared: bool,
    plan: str,
) -> Tensor:
    conv = eager_conv.Geometry(stride, padding, dilation, groups)
    return _conv_fake(x, lam, shape, conv, shared, _layout(x, weight, None))


def _conv_backward(
    grad: Any,
    x: Any,
    weight: Any,
    factors: Factors,
    lam: Any,
    conv: eager_conv.Geometry,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
    layout: torch.memory_format,
) -> list[Tensor]:
    backward = _conv_module(plan).BACKWARD[_algorithm(plan)]
    result: eager_linear.Gradients = backward(
        grad, x, weight, factors, lam, bias_dims, shared, Needs(*needs), conv, layout
    )
    return _pack(x, *result, count=1 if isinstance(factors, Dense) else 2)


def _conv2d_backward(
    grad: Any,
    x: Any,
    weight: Any,
    A: Any,
    B: Any,
    lam: Any,
    shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    conv = eager_conv.Geometry(stride, padding, dilation, groups)
    layout = _layout(x, weight, None)
    return _conv_backward(
        grad, x, weight, LowRank(A, B, shape), lam, conv, bias_dims, needs, shared, plan, layout
    )


def _conv2d_backward_fake(
    grad: Any,
    x: Any,
    weight: Any,
    A: Any,
    B: Any,
    lam: Any,
    shape: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    layout = _layout(x, weight, None)
    bias = _bias_shape(bias_dims, shape[0], lam)
    return _fake_gradients(x, lambda: _empty(x, list(x.shape), layout), weight, bias, [A, B], lam, needs)


def _conv2d_delta(
    x: Any,
    weight: Any,
    bias: Any,
    D: Any,
    lam: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    shared: bool,
    plan: str,
) -> Tensor:
    conv = eager_conv.Geometry(stride, padding, dilation, groups)
    forward = _conv_module(plan).FORWARD[_algorithm(plan)]
    return forward(x, weight, bias, Dense(D), lam, shared, conv, _layout(x, weight, D))


def _conv2d_delta_fake(
    x: Any,
    weight: Any,
    bias: Any,
    D: Any,
    lam: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    shared: bool,
    plan: str,
) -> Tensor:
    conv = eager_conv.Geometry(stride, padding, dilation, groups)
    return _conv_fake(x, lam, D.shape[1:], conv, shared, _layout(x, weight, D))


def _conv2d_delta_backward(
    grad: Any,
    x: Any,
    weight: Any,
    D: Any,
    lam: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    conv = eager_conv.Geometry(stride, padding, dilation, groups)
    layout = _layout(x, weight, D)
    return _conv_backward(grad, x, weight, Dense(D), lam, conv, bias_dims, needs, shared, plan, layout)


def _conv2d_delta_backward_fake(
    grad: Any,
    x: Any,
    weight: Any,
    D: Any,
    lam: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    bias_dims: int,
    needs: Any,
    shared: bool,
    plan: str,
) -> list[Tensor]:
    layout = _layout(x, weight, D)
    bias = _bias_shape(bias_dims, D.shape[1], lam)
    return _fake_gradients(x, lambda: _empty(x, list(x.shape), layout), weight, bias, [D], lam, needs)


_SHAPE = "SymInt[] shape, "
_define(
    "linear", f"({_HEAD}Tensor A, Tensor B, Tensor lam, {_TAIL}) -> (Tensor, Tensor)", _linear, _linear_fake
)
_define(
    "linear_backward",
    f"({_BACK}Tensor A, Tensor B, Tensor lam, Tensor S, {_MASK}{_TAIL}) -> Tensor[]",
    _linear_backward,
    _linear_backward_fake,
)
_define("linear_delta", f"({_HEAD}Tensor D, Tensor lam, {_TAIL}) -> Tensor", _linear_delta, _linear_delta_fake)
_define(
    "linear_delta_backward",
    f"({_BACK}Tensor D, Tensor lam, {_MASK}{_TAIL}) -> Tensor[]",
    _linear_delta_backward,
    _linear_delta_backward_fake,
)
_define(
    "conv2d",
    f"({_HEAD}Tensor A, Tensor B, Tensor lam, {_SHAPE}{_GEOMETRY}{_TAIL}) -> Tensor",
    _conv2d,
    _conv2d_fake,
)
_define(
    "conv2d_backward",
    f"({_BACK}Tensor A, Tensor B, Tensor lam, {_SHAPE}{_GEOMETRY}{_MASK}{_TAIL}) -> Tensor[]",
    _conv2d_backward,
    _conv2d_backward_fake,
)
_define(
    "conv2d_delta",
    f"({_HEAD}Tensor D, Tensor lam, {_GEOMETRY}{_TAIL}) -> Tensor",
    _conv2d_delta,
    _conv2d_delta_fake,
)
_define(
    "conv2d_delta_backward",
    f"({_BACK}Tensor D, Tensor lam, {_GEOMETRY}{_MASK}{_TAIL}) -> Tensor[]",
    _conv2d_delta_backward,
    _conv2d_delta_backward_fake,
)
