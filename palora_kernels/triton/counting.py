"""What a launch does, counted by running the kernel's own source with its memory switched off.

Some programs of the launch go through Triton's interpreter (TRITON_INTERPRET=1) with the arguments of the launch; loads
give zeros, stores vanish, and a matrix product costs nothing but is counted. Nothing here knows a kernel by name, so a
changed kernel or configuration is counted as it is, tails, padding and recomputation included.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palora_kernels.triton.launch import Launch


@dataclass
class Cost:
    """bytes: between memory and chip if every tensor travels once; moved: what all programs load and store, most of it
    from the L2 cache; flops: two for every multiply-accumulate of a matrix product, padding included."""

    bytes: float = 0.0
    moved: float = 0.0
    flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.moved + other.moved, self.flops + other.flops)


def cost(launch: Launch, samples: int = 4) -> Cost:
    """Of the whole launch, from ``samples`` programs spread evenly over it; all of them if it has no more."""
    from triton.runtime.interpreter import InterpretedFunction, interpreter_builder

    if not isinstance(launch.kernel, InterpretedFunction):
        raise RuntimeError("Counting needs TRITON_INTERPRET=1, set before the kernels are imported.")
    if launch.programs <= samples:
        programs = list(range(launch.programs))
    else:
        programs = [int((i + 0.5) * launch.programs / samples) for i in range(samples)]
    counted = Cost()
    with _without_memory(counted), _arguments(launch) as (run, values):
        interpreter_builder.set_grid_dim(launch.programs, 1, 1)
        for program in programs:
            interpreter_builder.set_grid_idx(program, 0, 0)
            run(**values)
    scale = launch.programs / len(programs)
    tensors = [value for value in launch.arguments.values() if isinstance(value, Tensor)]
    return Cost(distinct_bytes(tensors), counted.moved * scale, counted.flops * scale)


@contextmanager
def _arguments(launch: Launch) -> Iterator[tuple[Callable[..., None], dict[str, Any]]]:
    """The kernel as the interpreter calls it, and its arguments; pointers are those of the meta device, all zero."""
    from triton.runtime import interpreter

    function = launch.kernel.rewrite()
    executor = interpreter.GridExecutor(function, launch.kernel.arg_names, (launch.programs,))
    scope = interpreter._patch_lang(function)
    try:
        named = inspect.getcallargs(function, **launch.arguments)
        fixed = executor.constexprs
        yield function, {n: v if n in fixed else interpreter._implicit_cvt(v) for n, v in named.items()}
    finally:
        if scope is not None:  # Triton 3.4 leaves its patches in place
            scope.restore()


@contextmanager
def _without_memory(counted: Cost) -> Iterator[None]:
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype

    def count(pointers: Any, mask: Any) -> None:
        number = int(np.count_nonzero(np.broadcast_to(mask.data, pointers.data.shape)))
        counted.moved += number * max(1, pointers.get_element_ty().primitive_bitwidth // 8)

    def load(self: Any, pointers: Any, mask: Any, other: Any, *_: Any) -> Any:
        count(pointers, mask)
        kind = pointers.get_element_ty()
        return TensorHandle(np.zeros(pointers.data.shape, _get_np_dtype(kind)), kind)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *_: Any) -> None:
        count(pointers, mask)

    def dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        counted.flops += 2.0 * a.data.size * b.data.shape[-1]
        return d

    replaced = {"create_masked_load": load, "create_masked_store": store, "create_dot": dot}
    before = {name: getattr(InterpreterBuilder, name) for name in replaced}
    for name, method in replaced.items():
        setattr(InterpreterBuilder, name, method)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(InterpreterBuilder, name, method)


def distinct_bytes(tensors: list[Tensor]) -> float:
    """Bytes of the elements behind the tensors, those that several share counted once."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for tensor in tensors:
        # An expanded dimension repeats its elements.
        elements = math.prod(int(n) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
        start = int(tensor.storage_offset()) * tensor.element_size()
        end = start + elements * tensor.element_size()
        spans.setdefault(tensor.untyped_storage()._cdata, []).append((start, end))
    total = 0
    for ranges in spans.values():
        reached = 0
        for start, end in sorted(ranges):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return float(total)


class Library(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what PyTorch's own operations do inside a plan: each reads its inputs and writes its outputs once."""

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[Cost] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils._pytree import tree_leaves
        from torch.utils.flop_counter import flop_registry

        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.is_view or "empty" in name or name in ("detach", "_unsafe_view"):
            return out
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        flops = flop_registry.get(func.overloadpacket)
        count = float(flops(*args, **kwargs, out_val=out)) if flops else 0.0
        moved = distinct_bytes(tensors)
        self.costs.append(Cost(moved, moved, count))
        return out
