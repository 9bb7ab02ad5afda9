"""Writes down what a plan does while it runs, as a `Program` that does it again; `replay` says what for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import add, getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from palora_kernels.triton.launching import availability, launch
from palora_kernels.triton.launching.program import Program, Step, Tensors


class _Capture(TorchDispatchMode):
    """Writes down the operations and the launches of a plan while they run: (what, arguments, keywords, result)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Callable[..., Any], Sequence[Any], dict[str, Any], Any]] = []
        self.launching = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default and not self.launching:
            raise RuntimeError("A plan read a value on the host, which waits for the device and cannot be repeated.")
        if not self.launching:  # the interpreter has operations of its own
            self.seen.append((func, args, kwargs or {}, out))
        return out

    def launched(self, start: Callable[..., object], values: list[Any]) -> None:
        self.seen.append((start, values, {}, None))


def capture(plan: Callable[..., Any], tensors: Tensors, arguments: tuple[Any, ...]) -> tuple[Program, Any]:
    """Call the plan, and return the program of what it did beside its result."""
    # Tensors are told apart by identity, so one that is passed twice needs two: in a later call it may be two.
    given: list[Tensor | None] = []
    for tensor in tensors:
        given.append(tensor.detach() if tensor is not None and any(tensor is t for t in given) else tensor)
    seen = _Capture()
    with launch.watching(seen), seen:
        result = plan(*given, *arguments)
    writer = _Writer(given)
    try:
        return writer.write(seen, result), result
    finally:
        # Its own functions refer to it. Until a garbage collection it would keep the tensors, and with them the graph
        # of autograd that made them: activations, and nodes of a stream that a CUDA graph cannot wait for.
        vars(writer).clear()


_aten = torch.ops.aten
_ALLOCATIONS = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
# The same operations by their public names, which take the same arguments and a fraction of the time to call.
_SHORT: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: torch.add,
    _aten.addmm.default: torch.addmm,
    _aten.baddbmm.default: torch.baddbmm,
    _aten.bmm.default: torch.bmm,
    _aten.cat.default: torch.cat,
    _aten.clone.default: torch.clone,
    _aten.mm.default: torch.mm,
    _aten.mul.Tensor: torch.mul,
    _aten.sum.dim_IntList: torch.sum,
}


def _tuple(*items: Any) -> tuple[Any, ...]:
    return items


def _list(*items: Any) -> list[Any]:
    return [*items]


def _named(what: Callable[..., Any], names: list[str], fixed: dict[str, Any], *values: Any) -> Any:
    """Call with the last of the values by name."""
    first = len(values) - len(names)
    return what(*values[:first], **dict(zip(names, values[first:], strict=True)), **fixed)


def _shares(out: Tensor, first: Any) -> bool:
    """Whether a result is in the memory of the first argument: by what it is, since `contiguous` and the like may be
    the argument, or a view, or a copy, as the layout has it."""
    return isinstance(first, Tensor) and out.untyped_storage()._cdata == first.untyped_storage()._cdata


def _bound(what: Any, keywords: dict[str, Any]) -> Callable[..., Any]:
    if what is _aten._to_copy.default and list(keywords) == ["dtype"]:
        return partial(Tensor.to, dtype=keywords["dtype"], copy=True)
    short = _SHORT.get(what, what)
    return partial(short, **keywords) if keywords else short


class _Written(NamedTuple):
    what: Callable[..., Any]
    values: list[int]
    reads: list[int]  # the values, and those that have to be there still
    acts: bool  # on memory; else it is there for its result only


class _Writer:
    """Turns what a `_Capture` saw into a `Program`.

    Values are numbered as they come; constants have numbers of their own, -1, -2, .. until all are known. A view that
    only launches read is left out: they get the address of the tensor it views, plus its distance.
    """

    def __init__(self, given: Tensors) -> None:
        self.given = given
        self.constants: list[Any] = []
        self.steps: list[_Written] = []
        self.known = {id(t): i for i, t in enumerate(given) if t is not None}
        self.pending: dict[int, Callable[[], int]] = {}  # how to get a tensor that is not among the values yet
        self.made: set[int] = set()  # what was allocated: tensors at the start of their memory
        self.base: dict[int, tuple[Tensor, int]] = {}  # of a view: what it views, and the bytes in between
        # Of tensors, and places some bytes after them.
        self.addresses = {(id(t), 0): len(given) + i for i, t in enumerate(given) if t is not None}
        self.interpreted = availability.interpreted()

    def write(self, seen: _Capture, result: Any) -> Program:
        for what, arguments, keywords, out in seen.seen:
            if not isinstance(what, torch._ops.OpOverload):
                self._launch(what, arguments)
            elif what in _ALLOCATIONS:
                make = partial(torch.empty_strided, out.size(), out.stride(), dtype=out.dtype, device=out.device)
                self.known[id(out)] = self._step(make, [])
                self.made.add(id(out))
            elif named := [name for name, value in keywords.items() if isinstance(value, Tensor)]:  # `out`: put last
                fixed = {name: value for name, value in keywords.items() if name not in named}
                values = [*arguments, *(keywords[name] for name in named)]
                self._operation(partial(_named, what, named, fixed), values, out, acts=what._schema.is_mutable)
            elif isinstance(out, Tensor) and _shares(out, arguments[0]):
                if out is not arguments[0] and id(out) not in self.known:
                    self._view(_bound(what, keywords), arguments, out)
                elif what._schema.is_mutable:
                    self._operation(_bound(what, keywords), arguments, out, acts=True)
            else:
                self._operation(_bound(what, keywords), arguments, out, acts=what._schema.is_mutable)
        return self._program(self._value(result))

    def _step(
        self, what: Callable[..., Any], values: list[int], reads: Sequence[int] = (), *, acts: bool = False
    ) -> int:
        self.steps.append(_Written(what, values, [*values, *reads], acts))
        return 2 * len(self.given) + len(self.steps) - 1

    def _value(self, thing: Any) -> int:
        if isinstance(thing, Tensor):
            if id(thing) in self.pending:
                self.known[id(thing)] = self.pending.pop(id(thing))()
            if id(thing) not in self.known:
                raise RuntimeError(
                    "A plan used a tensor that it was not given and did not make; it cannot be repeated."
                )
            return self.known[id(thing)]
        if isinstance(thing, (tuple, list)) and any(isinstance(item, (Tensor, tuple, list)) for item in thing):
            return self._step(_tuple if isinstance(thing, tuple) else _list, [self._value(item) for item in thing])
        self.constants.append(thing)
        return -len(self.constants)

    def _view(self, what: Callable[..., Any], arguments: Sequence[Any], out: Tensor) -> None:
        of = arguments[0]
        root, distance = self.base.get(id(of), (of, 0))
        apart = out.storage_offset() * out.element_size() - of.storage_offset() * of.element_size()
        self.base[id(out)] = root, distance + apart
        if out.dtype == root.dtype and (distance + apart == 0 or id(root) in self.made):
            place = (
                [out.size(), out.stride()]
                if distance + apart == 0
                else [out.size(), out.stride(), out.storage_offset()]
            )
            self.pending[id(out)] = lambda: self._step(torch.as_strided, [self._value(v) for v in (root, *place)])
        else:
            self.pending[id(out)] = lambda: self._step(what, [self._value(argument) for argument in arguments])

    def _operation(self, what: Callable[..., Any], arguments: Sequence[Any], out: Any, *, acts: bool) -> None:
        index = self._step(what, [self._value(argument) for argument in arguments], acts=acts)
        if isinstance(out, Tensor):
            self.known.setdefault(id(out), index)  # an operation in place returns what it was given
            return
        for position, item in enumerate(out if isinstance(out, (tuple, list)) else ()):
            if isinstance(item, Tensor):
                self.pending[id(item)] = partial(self._item, index, position)

    def _item(self, index: int, position: int) -> int:
        return self._step(getitem, [index, self._value(position)])

    def _launch(self, start: Callable[..., Any], values: Sequence[Any]) -> None:
        if self.interpreted:
            self._step(start, [self._value(value) for value in values], acts=True)
            return
        tensors = [value for value in values if isinstance(value, Tensor)]
        taken = [self._address(value) if isinstance(value, Tensor) else self._value(value) for value in values]
        # An address keeps no memory alive, so the launch counts as a reader of the tensors themselves.
        self._step(start, taken, [self._value(self.base.get(id(t), (t, 0))[0]) for t in tensors], acts=True)

    def _address(self, tensor: Tensor) -> int:
        root, distance = self.base.get(id(tensor), (tensor, 0))
        if (id(root), distance) not in self.addresses:
            if distance:
                index = self._step(add, [self._address(root), self._value(distance)])
            else:
                index = self._step(Tensor.data_ptr, [self._value(root)])
            self.addresses[id(root), distance] = index
        return self.addresses[id(root), distance]

    def _program(self, result: int) -> Program:
        """Without the steps that are there for a result which nothing reads."""
        before = 2 * len(self.given)
        wanted = {result}
        for number in reversed(range(len(self.steps))):
            if self.steps[number].acts or before + number in wanted:
                wanted.update((before + number, *self.steps[number].reads))
        kept = [number for number in range(len(self.steps)) if before + number in wanted]
        places = {-index - 1: f"c{index}" for index in range(len(self.constants))}
        places |= {index: f"t{index}" for index in range(len(self.given))}
        places |= {len(self.given) + index: f"p{index}" for index in range(len(self.given))}
        places |= {before + number: f"v{number}" for number in kept}
        last = {index: number for number in kept for index in self.steps[number].reads}
        steps = []
        for number in kept:
            step = self.steps[number]
            over = {index for index in step.reads if last[index] == number and index >= before and index != result}
            steps.append(Step(step.what, [places[i] for i in step.values], [places[i] for i in sorted(over)]))
        names = [places[before + number] for number in kept]
        devices = [t.get_device() for t in self.given if t is not None]
        return Program(len(self.given), self.constants, steps, names, places[result], devices[0])
