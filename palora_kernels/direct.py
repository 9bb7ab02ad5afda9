"""The short way through an op: for ordinary tensors on a GPU, called before with the same layouts.

`functional` checks arguments, settles the dtype, the backend and the plan, and calls an operator of ``torch.library``,
whose gradient is another. All of that is Python, and for a small layer it takes longer than its kernels. None of it
depends on values, so it is done once for a key (`palora_kernels.triton.replay`) and `Call` remembers the outcome: the
plan, the steps of its forward, those of its backward. Its gradient is an ``autograd.Function``, which costs least.

Compilers, tracers, profilers, dispatch modes, torch.func and tensor subclasses get the operators, as before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from palora_kernels import gradients, library, plans
from palora_kernels.backends import batched, under_functorch
from palora_kernels.triton import replay
from palora_kernels.triton.program import Program, Tensors

_MOST = 1024  # calls remembered; a process that makes more starts over
_calls: dict[Hashable, Call] = {}


def forget() -> None:
    """Settle everything anew: for tests that change what a plan depends on behind its back."""
    _calls.clear()


def plain(tensors: Tensors) -> bool:
    """Whether all are ordinary tensors, and nobody watches: compiler, tracer, profiler, transform or dispatch mode."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    if under_functorch() or torch._C._get_tracing_state() is not None or torch.autograd._profiler_enabled():
        return False
    return all(t is None or type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)


def serves(backend: str | None, tensors: Tensors) -> bool:
    """Whether a call may take the short way; ``tensors`` begin with x."""
    x = tensors[0]
    if not isinstance(x, Tensor) or not (backend == "triton" or (backend is None and x.is_cuda)):
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
class Call:
    """An op with its plan: ``arguments`` are those that are not tensors, the plan's name last."""

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
            self.forward, found = replay.capture(_OPS[self.op].forward, tensors, self.arguments)
        else:
            found = self.forward(tensors)
        y, kept = found if isinstance(found, tuple) else (found, None)
        # A view that was made without gradients would refuse to be changed in place later.
        return (y.detach() if y._is_view() else y), kept

    def gradients(self, tensors: Tensors, bias_dims: int, needs: tuple[bool, ...]) -> Any:
        """``tensors``: the gradient of the output, then what the forward saved."""
        *others, shared, plan = self.arguments
        arguments = (*others, bias_dims, needs, shared, plan)
        layouts = replay.key(tensors)
        if layouts is None:
            return _OPS[self.op].backward(*tensors, *arguments)
        where = (bias_dims, needs, layouts)
        program = self.backward.get(where)
        if program is not None:
            return program(tensors)
        if len(self.backward) >= _MOST:
            self.backward.clear()
        self.backward[where], found = replay.capture(_OPS[self.op].backward, tensors, arguments)
        return found


def settled(key: Hashable | None) -> Call | None:
    return None if key is None else _calls.get(key)


def settle(key: Hashable | None, op: str, plan: str, arguments: Sequence[Any]) -> Call | None:
    """Remember the plan of a call, "<backend>.<algorithm>"; None where it may not take the short way."""
    if key is None or not plan.startswith("triton."):
        return None
    if len(_calls) >= _MOST:
        _calls.clear()
    call = Call(op, (*replay.frozen(arguments), plan))
    return _calls.setdefault(key, call)


class _Differentiable(torch.autograd.Function):
    """As `gradients` attaches it to the operators."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor | None) -> Tensor:
        y, kept = call.results(tensors)
        x, weight, bias, *rest = tensors
        ctx.save_for_backward(x, weight, *rest, *([] if kept is None else [kept]))
        ctx.bias_dims = 0 if bias is None else bias.dim()
        ctx.call = call
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        call, flags = ctx.call, ctx.needs_input_grad
        factors = len(flags) - 5
        needs = (flags[1], flags[2], flags[3], any(flags[4:-1]), flags[-1])
        saved = ctx.saved_tensors
        if torch.is_grad_enabled() or batched(grad) or not plain((grad, *saved)):
            *others, shared, plan = call.arguments
            found = _OPS[call.op].operator(grad, *saved, *others, ctx.bias_dims, needs, shared, plan)
            return None, *gradients.unpack(found, list(needs), factors, 0)
        dx, dweight, dbias, dfactors, dlam = call.gradients((grad, *saved), ctx.bias_dims, needs)
        wanted = needs[3] and dfactors is not None
        return (
            None,
            dx if needs[0] else None,
            dweight if needs[1] else None,
            dbias if needs[2] else None,
            *(dfactors if wanted else [None] * factors),
            dlam if needs[4] else None,
        )


@dataclass(frozen=True)
class _Op:
    forward: Callable[..., Any]  # library.FUNCTIONS
    backward: Callable[..., Any]
    operator: Any  # the backward as torch.library has it


_OPS = {
    name: _Op(forward, backward, getattr(torch.ops.palora, f"{name}_backward").default)
    for name, (forward, backward) in library.FUNCTIONS.items()
}
