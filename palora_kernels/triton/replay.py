"""What a plan does on the device, written down once and done again: the host's side of a warm call.

A plan chooses tiles, allocates, and starts kernels with some forty arguments each. All of it follows from the layouts
of its tensors and from its other arguments, never from values, so a second call with an equal `key` has the same steps:
`Program` captures them in the first call, and every later one only allocates, starts compiled kernels and calls those
operations of PyTorch that the plan called. Nothing is chosen and no argument is built again.

A key holds what the steps depend on: of each tensor its absence, dtype, device, shape, strides and the alignment of its
address, which Triton compiles for; and what the process has set: how float32 products run, and what was tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from operator import add, getitem, itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from palora_kernels.triton import availability, configs, launch, tuning

Tensors = Sequence[Tensor | None]
Key = tuple[Hashable, ...]

_ON_AMD = torch.version.hip is not None
_LARGEST_BUFFER = 2**31 - 1  # bytes of a storage into which AMD's compiler takes 32-bit offsets


def layout(tensor: Tensor | None) -> Hashable:
    """All that a plan may know of a tensor. Of the address Triton's own cache knows as much: whether 16 divides it."""
    if tensor is None:
        return None
    address = tensor.data_ptr() & 15
    if _ON_AMD and tensor.untyped_storage().nbytes() > _LARGEST_BUFFER:
        address += 16
    return tensor.dtype, tensor.get_device(), tensor.shape, tensor.stride(), address


def key(tensors: Tensors) -> Key | None:
    """What a plan's steps depend on beside its arguments that are not tensors; ``tensors`` begin with x or its like.

    None where nothing may be taken from memory: while launches are recorded, a target or tile is assumed, or tiles are
    on trial.
    """
    if launch.is_recording() or configs.is_assumed() or tuning.trial() is not None:
        return None
    first = tensors[0]
    assert first is not None
    kind = first.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return (*map(layout, tensors), kind, autocast, configs.switches(first.dtype), tuning.generation())


_MOST = 4096  # programs remembered; a process with more than this starts over
_programs: dict[Key, Program] = {}


def forget() -> None:
    """Capture everything anew: for tests that change what a plan depends on behind its back."""
    _programs.clear()


def perform(plan: Callable[..., Any], tensors: Tensors, arguments: tuple[Any, ...]) -> Any:
    """``plan(*tensors, *arguments)``, from memory where it was called before."""
    layouts = key(tensors)
    if layouts is None:
        return plan(*tensors, *arguments)
    where = (plan, frozen(arguments), layouts)
    program = _programs.get(where)
    if program is not None:
        return program(tensors)
    if len(_programs) >= _MOST:
        _programs.clear()
    _programs[where], result = capture(plan, tensors, arguments)
    return result


def frozen(arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Arguments that are not tensors, as a key can hold them."""
    return tuple([tuple(a) if isinstance(a, list) else a for a in arguments])


# ------------------------------------------------------------------------------------------------------------- capture


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
    return _Writer(given).write(seen, result), result


# -------------------------------------------------------------------------------------------------------------- replay


Step = tuple[Callable[..., Any], Callable[[list[Any]], Sequence[Any]], tuple[int, ...]]


class Program:
    """Steps over a list of values, each of which appends one: constants first, then the tensors given, then results."""

    def __init__(self, constants: list[Any], steps: list[Step], result: int, device: int) -> None:
        self.constants = constants
        self.steps = steps
        self.result = result
        self.device = device

    def __call__(self, tensors: Tensors) -> Any:
        if launch.elsewhere(self.device):
            with torch.cuda.device(self.device):
                return self._run(tensors)
        return self._run(tensors)

    def _run(self, tensors: Tensors) -> Any:
        values = [*self.constants, *tensors]
        append = values.append
        for do, take, dead in self.steps:
            append(do(*take(values)))
            for index in dead:
                values[index] = None
        return values[self.result]


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


def _taker(indices: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    if len(indices) > 1:
        return itemgetter(*indices)
    if not indices:
        return lambda values: ()
    (index,) = indices
    return lambda values: (values[index],)


def _shares(out: Tensor, first: Any) -> bool:
    """Whether a result is in the memory of the first argument: by what it is, since `contiguous` and the like may be
    the argument, or a view, or a copy, as the layout has it."""
    return isinstance(first, Tensor) and out.untyped_storage()._cdata == first.untyped_storage()._cdata


def _bound(what: Any, keywords: dict[str, Any]) -> Callable[..., Any]:
    if what is _aten._to_copy.default and list(keywords) == ["dtype"]:
        return partial(Tensor.to, dtype=keywords["dtype"], copy=True)
    short = _SHORT.get(what, what)
    return partial(short, **keywords) if keywords else short


class _Writer:
    """Turns what a `_Capture` saw into a `Program`.

    Values are numbered as they come; constants have numbers of their own, -1, -2, .. until all are known. A view that
    only launches read is left out: they get the address of the tensor it views, plus its distance.
    """

    def __init__(self, given: Tensors) -> None:
        self.given = given
        self.constants: list[Any] = []
        self.steps: list[tuple[Callable[..., Any], list[int], list[int]]] = []  # what, its values, others it reads
        self.known = {id(t): i for i, t in enumerate(given) if t is not None}
        self.pending: dict[int, Callable[[], int]] = {}  # how to get a tensor that is not among the values yet
        self.made: set[int] = set()  # what was allocated: tensors at the start of their memory
        self.base: dict[int, tuple[Tensor, int]] = {}  # of a view: what it views, and the bytes in between
        self.addresses: dict[tuple[int, int], int] = {}
        self.interpreted = availability.interpreted()

    def write(self, seen: _Capture, result: Any) -> Program:
        for what, arguments, keywords, out in seen.seen:
            if any(isinstance(value, Tensor) for value in keywords.values()):
                raise RuntimeError(f"A plan passed {what} a tensor by keyword; it cannot be repeated.")
            if not isinstance(what, torch._ops.OpOverload):
                self._launch(what, arguments)
            elif what in _ALLOCATIONS:
                make = partial(torch.empty_strided, out.size(), out.stride(), dtype=out.dtype, device=out.device)
                self.known[id(out)] = self._step(make, [])
                self.made.add(id(out))
            elif isinstance(out, Tensor) and _shares(out, arguments[0]):
                if out is not arguments[0] and id(out) not in self.known:
                    self._view(_bound(what, keywords), arguments, out)
                elif what._schema.is_mutable:
                    self._operation(_bound(what, keywords), arguments, out)
            else:
                self._operation(_bound(what, keywords), arguments, out)
        return self._program(self._value(result))

    def _step(self, what: Callable[..., Any], values: list[int], reads: Sequence[int] = ()) -> int:
        self.steps.append((what, values, [*values, *reads]))
        return len(self.given) + len(self.steps) - 1

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

    def _operation(self, what: Callable[..., Any], arguments: Sequence[Any], out: Any) -> None:
        index = self._step(what, [self._value(argument) for argument in arguments])
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
            self._step(start, [self._value(value) for value in values])
            return
        tensors = [value for value in values if isinstance(value, Tensor)]
        taken = [self._address(value) if isinstance(value, Tensor) else self._value(value) for value in values]
        # An address keeps no memory alive, so the launch counts as a reader of the tensors themselves.
        self._step(start, taken, [self._value(self.base.get(id(t), (t, 0))[0]) for t in tensors])

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
        first = len(self.constants) + len(self.given)
        last = {index: number for number, (_, _, reads) in enumerate(self.steps) for index in reads}

        def placed(index: int) -> int:
            return index + len(self.constants) if index >= 0 else -index - 1

        steps = []
        for number, (what, values, reads) in enumerate(self.steps):
            over = {placed(i) for i in reads if last[i] == number and i != result}
            steps.append((what, _taker([placed(i) for i in values]), tuple(i for i in over if i >= first)))
        devices = [t.get_device() for t in self.given if t is not None]
        return Program(self.constants, steps, placed(result), devices[0])
