"""Copies of what modules and hooks hold beside tensors, so that a pass of a trial leaves no trace in it."""

from __future__ import annotations

import copy
import functools
import itertools
import random
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
_WHOLE = (random.Random, np.ndarray, np.random.Generator, np.random.RandomState, itertools.count, bytearray)
_SHARED = ("torch.", "palora.")  # process groups, streams, the state that holds the rays


class Copies:
    """Copies of values, one for each object; what cannot be copied is shared.

    Args:
        module: the double of a module.
        tensor: the double of a tensor.
    """

    def __init__(self, module: Callable[[nn.Module], nn.Module], tensor: Callable[[Tensor], Tensor]) -> None:
        self.module, self.tensor = module, tensor
        self.done: dict[int, tuple[Any, Any]] = {}  # id -> the object, kept alive, and its copy

    def of(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.module(value)
        if id(value) not in self.done:
            self.done[id(value)] = value, value
            try:
                new = self._copied(value)
            except Exception:
                new = value
            self.done[id(value)] = value, new
        return self.done[id(value)][1]

    def of_function(self, function: Any) -> Any:
        """A function over copies of its closure, of its defaults and of the global containers and objects it names."""
        if isinstance(function, types.MethodType):
            return types.MethodType(function.__func__, self.of(function.__self__))
        if isinstance(function, functools.partial):
            kwargs = {k: self.of(v) for k, v in function.keywords.items()}
            return functools.partial(self.of_function(function.func), *map(self.of, function.args), **kwargs)
        if not isinstance(function, types.FunctionType):
            return self.of(function)
        names = {k: self.of(v) for k in function.__code__.co_names if (v := function.__globals__.get(k)) is not None}
        cells = tuple(types.CellType(self.of(cell.cell_contents)) for cell in function.__closure__ or ())
        scope, defaults = {**function.__globals__, **names}, self.of(function.__defaults__)
        new = types.FunctionType(function.__code__, scope, function.__name__, defaults, cells)
        new.__kwdefaults__ = self.of(function.__kwdefaults__)
        return new

    def _copied(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, torch.Generator):
            return value.clone_state()
        if type(value) is tuple:
            return tuple(map(self.of, value))
        if type(value) in _MAPPINGS:
            new = self._kept(value, copy.copy(value))
            for key, item in value.items():
                new[key] = self.of(item)
            return new
        if type(value) in (list, deque):
            new = self._kept(value, copy.copy(value))
            for i, item in enumerate(value):
                new[i] = self.of(item)
            return new
        if type(value) is set or isinstance(value, _WHOLE):
            return copy.deepcopy(value) if isinstance(value, random.Random) else copy.copy(value)
        ours = type(value).__module__.startswith(_SHARED)
        if ours or isinstance(value, (type, types.ModuleType, types.FunctionType)) or not hasattr(value, "__dict__"):
            return value
        new = self._kept(value, copy.copy(value))
        if new is not value:
            new.__dict__.update({k: self.of(v) for k, v in value.__dict__.items()})
        return new

    def _kept(self, value: Any, new: Any) -> Any:
        self.done[id(value)] = value, new  # what holds itself
        return new
