"""What a pass on copies must not change: its caller's arguments, generators and default dtype."""

from __future__ import annotations

import copy
import random
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palora.trees import map_tensors

_SIMPLE = (int, float, bool, str, bytes, type(None), complex, torch.dtype, torch.device, torch.Size, slice, range)


def own(value: Any) -> Any:
    """Arguments that a pass may change, other than tensors: copies of containers, and of objects such as caches."""
    if isinstance(value, (Tensor, *_SIMPLE)) or (callable(value) and not hasattr(value, "__dict__")):
        return value
    if type(value) is dict:
        return {k: own(v) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(own(v) for v in value)
    if isinstance(value, (nn.Module, type, types.FunctionType)):
        return value
    held: dict[int, Any] = {}  # those with a graph cannot be copied
    map_tensors(lambda tensor: held.setdefault(id(tensor), tensor), value)
    return copy.deepcopy(value, held)


@contextmanager
def undisturbed(dtype: torch.dtype | None) -> Iterator[None]:
    """Generators and the default dtype as before, nothing said."""
    python, numbers, default = random.getstate(), np.random.get_state(), torch.get_default_dtype()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            warnings.simplefilter("ignore")
            if dtype is not None:
                torch.set_default_dtype(dtype)
            yield
    finally:
        torch.set_default_dtype(default)
        random.setstate(python)
        np.random.set_state(numbers)


def drawn_by_host(model: nn.Module) -> list[Any]:
    """The states of generators of Python and NumPy, the global ones and those that modules hold."""
    held = [value for module in model.modules() for value in vars(module).values()]
    found: list[Any] = [random.getstate(), _legacy(np.random.get_state())]
    found += [value.getstate() for value in held if isinstance(value, random.Random)]
    found += [str(value.bit_generator.state) for value in held if isinstance(value, np.random.Generator)]
    return found + [_legacy(value.get_state()) for value in held if isinstance(value, np.random.RandomState)]


def _legacy(state: Any) -> Any:
    return state["state"] if isinstance(state, dict) else (state[1].tobytes(), *state[2:])
