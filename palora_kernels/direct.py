"""The short way through an op: for ordinary tensors on a GPU, called before with the same layouts.

`functional` checks arguments, chooses the dtype, the backend and the plan, and calls an operator of ``torch.library``,
whose gradient is another. All of that is Python, and for a small layer it takes longer than its kernels. None of it
depends on values, so it is done once for a key (`palora_kernels.triton.launching.replay`) and `Remembered` holds the
outcome: the plan, the steps of its forward, those of its backward. Its gradient is an ``autograd.Function``, which is
the cheapest.

Compilers, tracers, profilers, dispatch modes, torch.func and tensor subclasses get the operators, as before.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palora_kernels import gradients, library, plans
from palora_kernels.backends import batched, under_functorch
from palora_kernels.triton.launching import replay
from palora_kernels.triton.launching.program import Program, Tensors

_MOST = 1024  # calls remembered; a process that makes more starts over
_calls: dict[Hashable, Remembered] = {}


def forget() -> None:
    """Remember nothing: for tests that change what a plan depends on behind its back."""
    _calls.clear()


def plain(tensors: Tensors) -> bool:
    """Whether all are ordinary tensors, and nobody watches: compiler, tracer, profiler, transform or dispatch mode."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if under_functorch() or torch._C._get_tracing_state() is not None or torch.autograd._profiler_enabled():
        return False
    return all(t is None or type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)


def serves(backend: str | None, tensors: Tensors) -> bool:
    """Whether a call may take the short way; ``tensors`` begin with x and end with lam."""
    x, lam = tensors[0], tensors[-1]
    if (
        not isinstance(x, Tensor)
        or not isinstance(lam, Tensor)
        or not (backend == "triton" or (backend is None and x.is_cuda))
    ):
        return False
    return plain(tensors)


def key(op: str, backend: str | None, tensors: Tensors, options: Sequence[Any]) -> Hashable | None:
    """Everything that the outcome of a call depends on; None where nothing may be remembered.

    ``options`` are the arguments that are not tensors.
    """
    layouts = replay.key(tensors)
    if layouts is None:
        return None
    named = backend or os.environ.get("PALORA_BACKEND")
    return op, named, plans.forced(op), replay.frozen(options), layouts


@dataclass
class Remembered:
    """An op with its plan: ``arguments`` are those that are not tensors, the plan's name last.

    op: "linear" or "conv2d", the operator's name.
    """

    op: str
    arguments: tuple[Any, ...]
    forward: Program | None = None
    backward: dict[Hashable, Program] = field(default_factory=dict)

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            y: Tensor = _Differentiable.apply(self, *tensors)  # type: ignore[no-untyped-call]
            return y
        return self.results(tensors)[0]

    def results(self, tensors: Tensors) -> tuple[Tensor, Tensor | None]:
        """The output, and what the backward needs beside the inputs."""
        if self.forward is None:
            self.forward, found = replay.capture(library.forward, tensors, self.arguments)
        else:
            found = self.forward(tensors)
        y, kept = found
        # A view that was made without gradients would refuse to be changed in place later.
        return (y.detach() if y._is_view() else y), kept

    def gradients(self, tensors: Tensors, bias_dims: int, needs: tuple[bool, ...]) -> Any:
        """``tensors``: the gradient of the output, then what the forward saved."""
        *others, shared, plan = self.arguments
        arguments = (*others, bias_dims, needs, shared, plan)
        layouts = replay.key(tensors)
        if layouts is None:
            return library.backward(*tensors, *arguments)
        where = (bias_dims, needs, layouts)
        program = self.backward.get(where)
        if program is not None:
            return program(tensors)
        if len(self.backward) >= _MOST:
            self.backward.clear()
        self.backward[where], found = replay.capture(library.backward, tensors, arguments)
        return found


def remembered(key: Hashable | None) -> Remembered | None:
    return None if key is None else _calls.get(key)


def remember(key: Hashable | None, op: str, plan: str, arguments: Sequence[Any]) -> Remembered | None:
    """Remember the plan of a call, "<backend>.<algorithm>"; None where it may not take the short way."""
    if key is None or not plan.startswith("triton."):
        return None
    if len(_calls) >= _MOST:
        _calls.clear()
    call = Remembered(op, (*replay.frozen(arguments), plan))
    return _calls.setdefault(key, call)


class _Differentiable(torch.autograd.Function):
    """As `gradients` attaches it to the operators."""

    @staticmethod
    def forward(ctx: Any, call: Remembered, *tensors: Tensor | None) -> Tensor:
        y, kept = call.results(tensors)
        x, weight, bias, *rest = tensors
        ctx.save_for_backward(x, weight, *rest, kept)
        ctx.bias_dims = 0 if bias is None else bias.dim()
        ctx.call = call
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        call, flags = ctx.call, ctx.needs_input_grad[1:]
        if grad is None:
            return (None,) * (1 + len(flags))
        needs = gradients.needs(flags)
        saved = ctx.saved_tensors
        dense = saved[3] is None
        if torch.is_grad_enabled() or batched(grad) or not plain((grad, *saved)):
            *conv, shared, plan = call.arguments
            operator = getattr(torch.ops.palora, f"{call.op}_backward").default
            found = operator(grad, *saved, *conv, ctx.bias_dims, needs, shared, plan)
            return None, *gradients.unpack(found, flags, dense)
        dx, dweight, dbias, factors, dlam = call.gradients((grad, *saved), ctx.bias_dims, tuple(needs))
        dA, dB = (*factors, None)[:2] if needs[3] and factors is not None else (None, None)
        return (
            None,
            dx if needs[0] else None,
            dweight if needs[1] else None,
            dbias if needs[2] else None,
            dA,
            dB,
            dlam if needs[4] else None,
        )
