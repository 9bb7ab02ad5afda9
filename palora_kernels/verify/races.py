"""Races and accesses out of bounds, found while Triton's interpreter runs a kernel.

The interpreter runs the programs of a launch one after the other and reads and writes whatever address it is given, so
neither fault shows in its results. With `watch` switched on every address is looked at, at its line in the kernel:

bounds    an address has to lie in a tensor of this launch, between its first and its last element. The masks decide:
          an address that is masked off is not an access.
races     programs run in any order and at the same time. So no program may write what another reads or writes, equal
          values or not; one store may not put two values at one address; and what a program wrote it may read again
          only behind a barrier, since another thread may have written it.
atomics   none are allowed: their order is not fixed, and sums would differ from run to run.
promises  what `tl.multiple_of` tells the compiler of offsets has to be true: it loads as many numbers at once.

What this cannot see: races between the threads of one program in shared memory, which are the compiler's business, and
races between launches, which a stream keeps in order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_NOBODY, _MANY = -1, -2


class Fault(RuntimeError):
    """An access that a GPU may not make; its text names kernel, line, tensor and programs."""


@dataclass
class Seen:
    """What was watched of a kernel: launches, the most programs of one of them, accesses of single elements."""

    launches: int = 0
    programs: int = 0
    accesses: int = 0


class Region:
    """Memory of one tensor, or of several that overlap: who touched which element in this launch.

    writer   token of the last store, or -1. Tokens grow with every program and every barrier
    reader   program that loaded, -1 for none, -2 for several
    """

    def __init__(self, names: list[str], start: int, end: int, granule: int) -> None:
        self.names, self.start, self.end, self.granule = names, start, end, granule
        elements = -(-(end - start) // granule)
        self.writer = np.full(elements, _NOBODY, np.int32)
        self.reader = np.full(elements, _NOBODY, np.int32)

    def index(self, addresses: np.ndarray, size: int) -> np.ndarray:
        first = (addresses - self.start) // self.granule
        pieces = -(-size // self.granule)
        return first if pieces == 1 else (first[:, None] + np.arange(pieces)).ravel()


class Launch:
    """The accesses of one launch, in the order in which the interpreter makes them."""

    def __init__(self, kernel: str, tensors: dict[str, Any], seen: Seen) -> None:
        self.kernel, self.seen = kernel, seen
        self.regions = _regions(tensors)
        self.starts = np.array([region.start for region in self.regions], np.int64)
        self.program = -1
        self.token = self.first_token = -1

    def begin_program(self) -> None:
        self.program += 1
        self.token += 1
        self.first_token = self.token
        self.seen.programs = max(self.seen.programs, self.program + 1)

    def barrier(self) -> None:
        self.token += 1

    def load(self, addresses: np.ndarray, size: int) -> None:
        for region, at in self._located(addresses, size, "reads"):
            writer = region.writer[at]
            self._refuse(region, "reads what another program wrote", (writer != _NOBODY) & (writer < self.first_token))
            self._refuse(region, "reads what it wrote itself, without a barrier between", writer == self.token)
            before = region.reader[at]
            region.reader[at] = np.where((before == _NOBODY) | (before == self.program), self.program, _MANY)

    def store(self, addresses: np.ndarray, values: np.ndarray, size: int) -> None:
        if len(addresses) == 0:
            return
        order = np.argsort(addresses, kind="stable")
        in_order, bits = addresses[order], np.ascontiguousarray(values[order]).view(np.uint8).reshape(len(order), -1)
        twice = (in_order[1:] == in_order[:-1]) & (bits[1:] != bits[:-1]).any(axis=1)
        for region, at in self._located(addresses, size, "writes"):
            self._refuse(region, "writes two values at one address in one store", twice)
            writer, reader = region.writer[at], region.reader[at]
            self._refuse(region, "writes what another program wrote", (writer != _NOBODY) & (writer < self.first_token))
            self._refuse(region, "writes what another program reads", (reader != _NOBODY) & (reader != self.program))
            region.writer[at] = self.token

    def promise(self, offsets: np.ndarray, multiples: list[int]) -> None:
        """Along each axis the runs of the offsets have to start at multiples of what was said of it."""
        for axis, multiple in enumerate(multiples):
            starts = np.take(offsets, 0, axis) if offsets.ndim else offsets
            if multiple > 1 and (bad := starts[starts % multiple != 0]).size:
                raise Fault(f"{self._place()} promises multiples of {multiple}, but a run starts at {int(bad.flat[0])}")

    def atomic(self) -> None:
        raise Fault(f"{self._place()} uses an atomic operation")

    def _located(self, addresses: np.ndarray, size: int, verb: str) -> list[tuple[Region, np.ndarray]]:
        """The regions that the addresses lie in, with the elements of each. Raises where one lies in none."""
        self.seen.accesses += len(addresses)
        if len(addresses) == 0:
            return []
        which = np.searchsorted(self.starts, addresses, side="right") - 1
        found = []
        for number in np.unique(which):
            mine = addresses[which == number]
            if number < 0:
                raise Fault(self._outside(verb, mine, size))
            region = self.regions[number]
            if outside := mine[mine + size > region.end].tolist():
                raise Fault(self._outside(verb, np.array(outside), size))
            found.append((region, region.index(mine, size)))
        return found

    def _outside(self, verb: str, addresses: np.ndarray, size: int) -> str:
        address = int(addresses[0])
        distances = [
            (address - r.end + size, "after", r) if address >= r.start else (r.start - address, "before", r)
            for r in self.regions
        ]
        if not distances:
            return f"{self._place()} {verb} memory, but the launch has no tensor"
        distance, side, region = min(distances, key=lambda d: d[0])
        where = f"{distance} bytes {side} {'the end' if side == 'after' else 'the start'} of {_names(region)}"
        return f"{self._place()} {verb} out of bounds: {len(addresses)} elements, one {where}"

    def _refuse(self, region: Region, what: str, bad: np.ndarray) -> None:
        if bad.any():
            raise Fault(f"{self._place()} {what}: {int(bad.sum())} elements of {_names(region)}")

    def _place(self) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None and _is_machinery(frame.f_code.co_filename):
            frame = frame.f_back
        file = frame.f_code.co_filename.rsplit("/", 1)[-1]
        return f"{self.kernel} ({file}:{frame.f_lineno}, program {self.program})"


def _is_machinery(file: str) -> bool:
    return file == __file__ or "/triton/runtime/" in file or "/triton/language/" in file


def _names(region: Region) -> str:
    return " and ".join(region.names)


def _regions(tensors: dict[str, Any]) -> list[Region]:
    """One for each tensor, from its first to its last element; tensors that overlap share one."""
    spans = []
    for name, tensor in tensors.items():
        if tensor.numel():
            last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            start, size = tensor.data_ptr(), tensor.element_size()
            spans.append((start, start + (last + 1) * size, size, name))
    merged: list[tuple[list[str], int, int, int]] = []
    for start, end, size, name in sorted(spans):
        if merged and start < merged[-1][2]:
            names, first, last, granule = merged.pop()
            merged.append(([*names, name], first, max(last, end), min(granule, size)))
        else:
            merged.append(([name], start, end, size))
    return [Region(*span) for span in merged]


def watch() -> dict[str, Seen]:
    """Watch every launch of this process from now on; for tests under TRITON_INTERPRET=1.

    Returns what has been seen, by name of the kernel; it grows as kernels run. A fault is raised where it happens; the
    interpreter passes it on as the text of its own InterpreterError.
    """
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle

    seen: dict[str, Seen] = {}
    launch: list[Launch] = []  # the one that runs, if any

    def after(original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def method(self: Any, *args: Any) -> Any:
            found = original(self, *args)
            note(self, *args, found)
            return found

        return method

    def before(original: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if launch:
                note(*args, **kwargs)
            return original(self, *args, **kwargs)

        return method

    def begin(executor: Any, args: Any, kwargs: Any, found: Any) -> None:
        named = {**dict(zip(executor.arg_names, found[0], strict=False)), **found[1]}
        tensors = {name: value for name, value in named.items() if hasattr(value, "data_ptr")}
        kernel = executor.fn.__name__
        launch[:] = [Launch(kernel, tensors, seen.setdefault(kernel, Seen()))]
        launch[0].seen.launches += 1

    def load(ptrs: Any, mask: Any, *_: Any, **__: Any) -> None:
        launch[0].load(*_accessed(ptrs, mask))

    def store(ptrs: Any, value: Any, mask: Any, *_: Any, **__: Any) -> None:
        addresses, size = _accessed(ptrs, mask)
        values = np.broadcast_to(value.data, ptrs.data.shape)[_mask(ptrs, mask)]
        launch[0].store(addresses, values, size)

    def promise(handle: Any, name: str, values: Any, _: Any) -> None:
        if launch and name == "tt.divisibility":
            launch[0].promise(handle.data, values)

    def patch(owner: Any, name: str, wrap: Callable[..., Any], note: Callable[..., None]) -> None:
        setattr(owner, name, wrap(getattr(owner, name), note))

    patch(GridExecutor, "_init_args_hst", after, begin)
    patch(GridExecutor, "_restore_args_dev", after, lambda *_: launch.clear())
    patch(InterpreterBuilder, "set_grid_idx", before, lambda *_: launch[0].begin_program())
    patch(InterpreterBuilder, "create_barrier", before, lambda: launch[0].barrier())
    patch(InterpreterBuilder, "create_masked_load", before, load)
    patch(InterpreterBuilder, "create_masked_store", before, store)
    patch(TensorHandle, "set_attr", after, promise)
    for name in ("create_atomic_rmw", "create_atomic_cas"):
        patch(InterpreterBuilder, name, before, lambda *_: launch[0].atomic())
    return seen


def _mask(ptrs: Any, mask: Any) -> np.ndarray:
    return np.broadcast_to(mask.data, ptrs.data.shape).astype(bool)


def _accessed(ptrs: Any, mask: Any) -> tuple[np.ndarray, int]:
    """The addresses that are not masked off, and the bytes behind each."""
    size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
    return ptrs.data[_mask(ptrs, mask)].astype(np.int64), size
