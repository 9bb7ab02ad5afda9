"""In the place of a CUDA graph where there is no GPU: a recorder that checks what a graph takes for granted.

A replay here runs the step once more on the buffers that were given, and compares it with the first one: the same
operations in the same order, with the same numbers, on memory at the same addresses. A real replay would silently go on
with the numbers and addresses of the capture. Nothing may need a value on the host, and of what a step makes only
gradients and losses may outlive it, since the rest lies in memory that the next replay writes again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from palora.engine.graph import Body
from palora.engine.watch import Watch


class Broken(AssertionError):
    """A graph would not have done what the step did."""


class Trace(TorchDispatchMode):
    """The operations of a step with their arguments: tensors made within it by number, others by address."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.made: dict[int, int] = {}
        self.storages: list[torch.UntypedStorage] = []  # held, lest an address is given out twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "profiler":
            return func(*args, **(kwargs or {}))
        given = [self._named(value) for value in pytree.tree_leaves((args, kwargs or {}))]
        out = func(*args, **(kwargs or {}))
        self.lines.append(f"{func.name()}({', '.join(given)})")
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor) and not self._is_of(tensor, (args, kwargs)):
                self.made.setdefault(tensor.untyped_storage()._cdata, len(self.made))
                self.storages.append(tensor.untyped_storage())
        return out

    def _is_of(self, tensor: Tensor, arguments: Any) -> bool:
        cdata = tensor.untyped_storage()._cdata
        return any(isinstance(a, Tensor) and a.untyped_storage()._cdata == cdata for a in pytree.tree_leaves(arguments))

    def _named(self, value: Any) -> str:
        if not isinstance(value, Tensor):
            return "generator" if isinstance(value, torch.Generator) else repr(value)
        number = self.made.get(value.untyped_storage()._cdata)
        place = f"address {value.data_ptr()}" if number is None else f"result {number}"
        return f"{place} {tuple(value.shape)} {value.stride()} {value.dtype}"


class StandIn:
    """A recorder (palora.engine.graph.Recorder) for the CPU. `captures` and `replays` count."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.asides = self.captures = self.replays = 0

    def aside(self, body: Body) -> Tensor:
        self.asides += 1
        return body()

    def record(self, body: Body) -> tuple[Callable[[], None], Tensor]:
        self.captures += 1
        losses = torch.empty(0)
        captured: list[list[str]] = []

        def replay() -> None:
            self.replays += 1
            self.model.zero_grad()  # a graph writes its gradients where they are
            with Watch() as seen, Trace() as trace:
                found = body()
            if seen.found:
                raise Broken(f"a step {seen.found[0]}")
            captured.append(trace.lines)
            for one, other in zip(captured[0], trace.lines, strict=False):
                if one != other:
                    raise Broken(f"captured was {one}, now it is {other}")
            if len(captured[0]) != len(trace.lines):
                raise Broken(f"captured were {len(captured[0])} operations, now {len(trace.lines)}")
            losses.resize_(found.shape).copy_(found)
            self._require_nothing_kept(trace, found)

        return replay, losses

    def _require_nothing_kept(self, trace: Trace, losses: Tensor) -> None:
        allowed = {losses.untyped_storage()._cdata}
        allowed |= {p.grad.untyped_storage()._cdata for p in self.model.parameters() if p.grad is not None}
        kept = [StorageWeakRef(s) for s in trace.storages if s._cdata not in allowed]
        trace.storages.clear()
        alive = sum(not ref.expired() for ref in kept)
        if alive:
            raise Broken(f"{alive} results of the step outlive it beside gradients and losses")
