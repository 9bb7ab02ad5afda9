"""From a call and the name of its plan to the plan's two functions, and what every plan has in common.

A backend's modules for linear layers and for convolutions each offer ``PLANS``, from an algorithm's name to its
forward and backward (`palora_kernels.call`). A plan gets calls that have rows, factors that have numbers and, but
those of Triton, dense maps and gradients; it leaves out the bias's gradient where that is a sum of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from palora_kernels.call import Call, Gradients, Needs
from palora_kernels.factors import LowRank
from palora_kernels.plans import ALGORITHMS, KEEP_S, op_of

Plan = tuple[Callable[..., Any], Callable[..., Any]]


# Where a backend's plans are, with "linear" or "conv" in it; "native" on CUDA tensors has others.
MODULES = {
    "eager": "palora_kernels.eager.{}",
    "native": "palora_kernels.native.{}",
    "native on cuda": "palora_kernels.native.cuda.{}",
    "triton": "palora_kernels.triton.{}.plans",
}


def _table(op: str, backend: str, device: str) -> dict[str, Plan]:
    """Imports the backend on first use."""
    module = MODULES["native on cuda" if (backend, device) == ("native", "cuda") else backend]
    plans: dict[str, Plan] = import_module(module.format("conv" if op.startswith("conv") else "linear")).PLANS
    return plans


def algorithms(op: str, backend: str, device: str) -> dict[str, Plan]:
    """The plans that a backend has for an op on a type of device, by the name of the algorithm."""
    table = _table(op, backend, device)
    return {name: table[name] for name in ALGORITHMS[op] if name in table}


def keeps(call: Call, plan: str) -> bool:
    """Whether the forward returns S = X B^T (P, R)."""
    return call.conv is None and isinstance(call.factors, LowRank) and plan.split(".")[1] in KEEP_S


def _served(call: Call, plan: str) -> tuple[str, str]:
    """(backend, algorithm) of ``plan``; of one without kernels where there are no inputs, outputs, tasks or columns."""
    if all(factor.numel() for factor in call.factors.given):
        backend, algorithm = plan.split(".")
        return backend, algorithm
    return "eager", "factored" if keeps(call, plan) else "merged"


def _dense(call: Call) -> Call:
    """With the map of a convolution in the layout of its result."""
    if call.conv is None:
        return call
    x = call.dense(call.x)
    return call if x is call.x else replace(call, x=x)


def forward(call: Call, plan: str) -> tuple[Tensor, Tensor | None]:
    """(Y, S): what a plan computes, and what it keeps for its backward."""
    if call.samples == 0:
        size = [] if call.conv is None else call.output_size
        S = call.x.new_zeros(0, call.low_rank.columns) if keeps(call, plan) else None
        return call.empty([0, call.outputs, *size]), S
    backend, algorithm = _served(call, plan)
    if backend != "triton":
        call = _dense(call)
    found: tuple[Tensor, Tensor | None] = _table(op_of(call), backend, call.x.device.type)[algorithm][0](call)
    return found


def backward(call: Call, grad: Tensor, S: Tensor | None, needs: Needs, plan: str) -> Gradients:
    if grad.numel() == 0:
        return _zeros(call, needs)
    backend, algorithm = _served(call, plan)
    given = grad
    if backend != "triton":
        grad, call = call.dense(grad), _dense(call)
    found: Gradients = _table(op_of(call), backend, call.x.device.type)[algorithm][1](call, grad, S, needs)
    if needs.bias and found.bias is None:
        found = found._replace(bias=call.bias_gradient(given))
    return found


def _zeros(call: Call, needs: Needs) -> Gradients:
    """No rows or no outputs: every gradient is zero."""
    x, weight, factors = call.x, call.weight, call.factors
    bias = [call.outputs] if call.bias_dims == 1 else [call.rays, call.outputs]
    return Gradients(
        torch.zeros_like(x, memory_format=call.layout) if needs.x else None,
        x.new_zeros(weight.shape) if needs.weight and weight is not None else None,
        x.new_zeros(bias) if needs.bias else None,
        [x.new_zeros(f.shape) for f in factors.given] if needs.factors else None,
        torch.zeros_like(call.lam) if needs.lam else None,
    )
