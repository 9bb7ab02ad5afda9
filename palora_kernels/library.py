"""The ops as PyTorch sees them: schemas, implementations, shapes for the compiler, and gradients.

Namespace ``palora``. Each op carries the name of its plan, chosen before the call, so that one schema serves every
backend and the compiler sees one opaque node with its own backward op. The factors are A and B of low-rank deltas;
without B, A holds the deltas themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from palora_kernels import implementations
from palora_kernels.call import Call, Geometry, Gradients, Needs, memory_format
from palora_kernels.factors import Dense, Factors, LowRank
from palora_kernels.triton.launching import replay

LIBRARY = torch.library.Library("palora", "DEF")

# Of a convolution: the kernel's shape (O, C/groups, kh, kw) and the arguments of `Geometry`.
_CONV = "SymInt[] shape, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, "
_FACTORS = "Tensor A, Tensor? B, Tensor lam, "
_FORWARD = f"Tensor x, Tensor? weight, Tensor? bias, {_FACTORS}"
_BACKWARD = f"Tensor grad, Tensor x, Tensor? weight, {_FACTORS}Tensor? S, "
_PLAN = "bool shared, str plan"
_GRADIENTS = f"({', '.join(['Tensor'] * 6)})"  # of x, weight, bias, A, B, lam
Packed = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_call(tensors: tuple[Tensor | None, ...], shared: bool, bias_dims: int, conv: tuple[Any, ...] = ()) -> Call:
    """From the arguments of an op: (x, weight, bias, A, B, lam) and those of `_CONV`."""
    x, weight, bias, A, B, lam = tensors
    assert x is not None
    assert A is not None
    assert lam is not None
    if not conv:
        factors: Factors = Dense(A) if B is None else LowRank(A, B, (A.shape[1], B.shape[2]))
        return Call(x, weight, bias, factors, lam, shared, bias_dims)
    shape, *geometry = conv
    factors = Dense(A) if B is None else LowRank(A, B, shape)
    layout = memory_format(x, weight if weight is not None else A[0] if B is None else x)
    return Call(x, weight, bias, factors, lam, shared, bias_dims, Geometry(*geometry), layout)


def forward(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    """An op without the dispatcher: the result, and S where the plan keeps it."""
    x, weight, bias, A, B, lam, *conv, shared, plan = arguments
    call = make_call((x, weight, bias, A, B, lam), shared, 0 if bias is None else bias.dim(), tuple(conv))
    return implementations.forward(call, plan)


def backward(*arguments: Any) -> Gradients:
    """The backward of an op without the dispatcher."""
    grad, x, weight, A, B, lam, S, *conv, bias_dims, needs, shared, plan = arguments
    call = make_call((x, weight, None, A, B, lam), shared, bias_dims, tuple(conv))
    return implementations.backward(call, grad, S, Needs(*needs), plan)


def _packed(x: Tensor, found: Gradients) -> Packed:
    """Gradients without gaps: what was not asked for, or is not there, is an empty tensor.

    Not a list: is_grads_batched=True can call an op for every gradient only if each result is a tensor.
    """
    A, B = (*(found.factors or ()), None, None)[:2]
    dx, dweight, dbias, dA, dB, dlam = (
        x.new_empty(0) if g is None else g for g in (found.x, found.weight, found.bias, A, B, found.lam)
    )
    return dx, dweight, dbias, dA, dB, dlam


def _forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    """What a Triton plan chose and built for equal layouts of the tensors is not done again."""
    if arguments[-1].startswith("triton."):
        y, S = replay.perform(forward, arguments[:6], arguments[6:])
    else:
        y, S = forward(*arguments)
    return y, y.new_empty(0) if S is None else S


def _backward(*arguments: Any) -> Packed:
    if arguments[-1].startswith("triton."):
        return _packed(arguments[1], Gradients(*replay.perform(backward, arguments[:7], arguments[7:])))
    return _packed(arguments[1], backward(*arguments))


def _fake_forward(*arguments: Any) -> tuple[Tensor, Tensor]:
    x, weight, bias, A, B, lam, *conv, shared, plan = arguments
    call = make_call((x, weight, bias, A, B, lam), shared, 0, tuple(conv))
    y = call.empty([call.samples, call.outputs, *([] if call.conv is None else call.output_size)])
    keeps = implementations.keeps(call, plan)
    return y, x.new_empty(x.shape[0], A.shape[0] * A.shape[2]) if keeps else x.new_empty(0)


def _fake_backward(*arguments: Any) -> Packed:
    _, x, weight, A, B, lam, _, *conv, bias_dims, flags, shared, _ = arguments
    call, needs = make_call((x, weight, None, A, B, lam), shared, bias_dims, tuple(conv)), Needs(*flags)
    bias = [call.outputs] if bias_dims == 1 else [call.rays, call.outputs]
    return _packed(
        x,
        Gradients(
            call.empty(list(x.shape)) if needs.x else None,
            x.new_empty(weight.shape) if needs.weight and weight is not None else None,
            x.new_empty(bias) if needs.bias else None,
            [x.new_empty(f.shape) for f in call.factors.given] if needs.factors else None,
            lam.new_empty(lam.shape) if needs.lam else None,
        ),
    )


def _define(name: str, schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> None:
    LIBRARY.define(f"{name}{schema}")
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"palora::{name}", fake, lib=LIBRARY)


for _op, _options in (("linear", ""), ("conv2d", _CONV)):
    _define(_op, f"({_FORWARD}{_options}{_PLAN}) -> (Tensor, Tensor)", _forward, _fake_forward)
    _mask = "int bias_dims, bool[] needs, "
    _define(f"{_op}_backward", f"({_BACKWARD}{_options}{_mask}{_PLAN}) -> {_GRADIENTS}", _backward, _fake_backward)
