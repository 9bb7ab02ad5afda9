"""What modules reach outside of themselves: globals of their code, attributes of their classes; kept over a trial.

A trial runs the code of a model on doubles of its modules, but that code may write a global counter, a cache of its
file's, or an attribute of a class. What it names there is noted before, plain values, containers, objects, tensors and
generators, and put back after. Files, sockets, ``functools.lru_cache`` and what only compiled code reaches are not.
"""

from __future__ import annotations

import copy
import random
import sys
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_LIBRARIES = sys.stdlib_module_names | {"torch", "palora", "palora_kernels", "numpy"}
_MOST = 10_000  # entries of a container, and objects in all
_MOST_FUNCTIONS = 2000
_DEPTH = 3
_MOST_TENSOR = 2**22  # numbers


@contextmanager
def outside_kept(model: nn.Module) -> Iterator[None]:
    """Put back what the forward of ``model`` and of its modules changes outside of them."""
    notes = _Notes()
    for kind in {type(module) for module in model.modules()}:
        notes.kind(kind)
    for module in model.modules():
        notes.functions += [value for value in vars(module).values() if isinstance(value, types.FunctionType)]
    notes.ask({"forward"})
    notes.follow()
    try:
        yield
    finally:
        notes.restore()


def _is_library(name: str | None) -> bool:
    return name is None or name.split(".")[0] in _LIBRARIES


def _function(member: Any) -> types.FunctionType | None:
    """The function in a method, a property or a decorator; None for those of libraries."""
    member = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
    member = getattr(member, "__wrapped__", member)
    return member if isinstance(member, types.FunctionType) and not _is_library(member.__module__) else None


class _Notes:
    """Functions that put a value back, each for one object."""

    def __init__(self) -> None:
        self.undo: list[Callable[[], None]] = []
        self.held: dict[int, Any] = {}
        self.kinds: set[type] = set()
        self.members: dict[str, list[Any]] = defaultdict(list)  # of these classes, by name
        self.asked: set[str] = set()  # names that the code uses
        self.functions: list[Any] = []  # to be looked at

    def restore(self) -> None:
        for undo in self.undo:
            undo()

    def kind(self, kind: type) -> None:
        """Note the attributes of a class and of those it derives from."""
        for one in kind.__mro__:
            if one not in self.kinds and not _is_library(one.__module__):
                self.kinds.add(one)
                self.names(one, [name for name in vars(one) if not name.startswith("__")])
                for name, member in vars(one).items():
                    self.members[name].append(member)
                    if name in self.asked:
                        self.functions.append(member)

    def ask(self, names: set[str]) -> None:
        for name in names - self.asked:
            self.functions += self.members.get(name, ())
        self.asked |= names

    def follow(self) -> None:
        """Note what functions reach, and those that they may call."""
        seen: set[Any] = set()
        while self.functions and len(seen) < _MOST_FUNCTIONS:
            function = _function(self.functions.pop())
            if function is not None and function not in seen:
                seen.add(function)
                self.code(function)

    def code(self, function: types.FunctionType) -> None:
        """Note the globals that a function names, those of other files too."""
        names, scope = set(_names(function.__code__)), function.__globals__
        self.ask(names)
        self.names(scope, list(names))
        for cell in function.__closure__ or ():
            self._cell(cell)
        found = [scope[name] for name in names & scope.keys()]
        for value in list(found):
            if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
                self.names(vars(value), list(names & vars(value).keys()))
                found += [vars(value)[name] for name in names & vars(value).keys()]
        self.functions += found
        for value in found:
            if isinstance(value, type):
                self.kind(value)

    def names(self, place: Any, names: list[str]) -> None:
        """Attributes of a class, or entries of a file's globals, also those that are not there yet."""
        entries = place if isinstance(place, dict) else vars(place)
        before = {name: entries[name] for name in names if name in entries and not _is_code(entries[name])}
        absent = [name for name in names if name not in entries and isinstance(place, dict)]

        def undo() -> None:
            for name, value in before.items():
                if entries.get(name) is not value:
                    if isinstance(place, dict):
                        place[name] = value
                    else:
                        setattr(place, name, value)
            for name in absent:
                place.pop(name, None)

        self.undo.append(undo)
        for value in before.values():
            self.value(value, _DEPTH)

    def _cell(self, cell: types.CellType) -> None:
        try:
            value = cell.cell_contents
        except ValueError:
            return

        def undo() -> None:
            if cell.cell_contents is not value:
                cell.cell_contents = value

        if not _is_code(value):
            self.undo.append(undo)
            self.value(value, _DEPTH)

    def value(self, value: Any, depth: int) -> None:
        """What is inside a value and can be changed there."""
        if depth == 0 or id(value) in self.held or len(self.held) >= _MOST or _is_code(value):
            return
        undo = _undo(value)
        if undo is None:
            return
        self.held[id(value)] = value
        self.undo.append(undo)
        self.kind(type(value))
        items: Any = value if isinstance(value, (list, tuple, deque)) else ()
        if isinstance(value, MutableMapping):
            items = value.values()
        elif not items and not isinstance(value, Tensor):
            items = getattr(value, "__dict__", {}).values()
        for item in list(items):
            self.value(item, depth - 1)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_code(value: Any) -> bool:
    """What no model writes, or what a trial has doubles of."""
    kinds = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, nn.Module)
    return isinstance(value, kinds) or (_is_library(type(value).__module__) and not isinstance(value, _KEPT))


_PLAIN = (bool, int, float, complex, str, bytes, type(None), tuple)
_CONTAINERS = (MutableMapping, list, set, deque)
_GENERATORS = (torch.Generator, random.Random, np.random.Generator, np.random.RandomState)
_KEPT = (*_PLAIN, *_CONTAINERS, *_GENERATORS, Tensor, np.ndarray, types.SimpleNamespace)


def _undo(value: Any) -> Callable[[], None] | None:
    """A function that makes a mutable value what it is now; None: there is nothing to change in it."""
    if isinstance(value, tuple):
        return lambda: None
    if isinstance(value, Tensor):
        return _undo_tensor(value)
    if isinstance(value, _GENERATORS):
        return _undo_generator(value)
    if isinstance(value, np.ndarray):
        numbers = value.copy()
        return lambda: np.copyto(value, numbers) if value.flags.writeable else None
    if isinstance(value, MutableMapping):
        return _undo_entries(value) if len(value) <= _MOST else None
    if isinstance(value, _CONTAINERS):
        return _undo_items(value) if len(value) <= _MOST else None
    return _undo_entries(vars(value)) if hasattr(value, "__dict__") else None


def _undo_tensor(value: Tensor) -> Callable[[], None] | None:
    if value.numel() > _MOST_TENSOR or value.layout is not torch.strided or isinstance(value, nn.Parameter):
        return None
    version, before = value._version, value.detach().clone()

    def undo() -> None:
        if value._version != version:
            value.data.copy_(before)

    return undo


def _undo_generator(value: Any) -> Callable[[], None]:
    if isinstance(value, np.random.Generator):
        bits = copy.deepcopy(value.bit_generator.state)
        return lambda: setattr(value.bit_generator, "state", bits)
    read, write = ("getstate", "setstate") if isinstance(value, random.Random) else ("get_state", "set_state")
    state = getattr(value, read)()

    def undo() -> None:
        getattr(value, write)(state)

    return undo


def _undo_entries(value: Any) -> Callable[[], None]:
    """Entry by entry, as other threads may look."""
    before = dict(value)

    def undo() -> None:
        for key in [key for key in value if key not in before]:
            del value[key]
        for key, item in before.items():
            if key not in value or value[key] is not item:
                value[key] = item

    return undo


def _undo_items(value: Any) -> Callable[[], None]:
    items = list(value)

    def undo() -> None:
        now = list(value)
        if len(now) != len(items) or any(a is not b for a, b in zip(now, items, strict=True)):
            value.clear()
            (value.update if isinstance(value, set) else value.extend)(items)

    return undo
