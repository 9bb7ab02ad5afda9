"""The form of a call: what the way of rows through a model may depend on, and what trials found of each form.

Of tensors that is not their size, but which dimensions are as long as the batch; of everything else its values, in the
arguments and in the attributes of modules: an integer, a string or an object of settings may turn on a branch.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palora.layers.arguments import Rules

MOST_FORMS = 64  # of arguments that one model is tried with
MOST_VALUES = 16  # of what is no tensor, for each form, as long as all come out alike
_REMEMBERED = 1024  # values
_MOST_LOOKED_AT = 8192  # values of one call, and as many settings
_DEPTH = 3  # of containers and objects in each other

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice})
_TORCH = ("torch.nn.modules.", "palora.")  # modules whose settings are known not to change
_OF_MODULES = frozenset(nn.Module().__dict__) | {"training"}


class Form:
    """A call's form.

    Attributes:
        structure: modules and their modes, dimensions, containers and types; values: of what is no tensor.
    """

    def __init__(self, model: nn.Module, rules: Rules, n: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = tuple(
            (path, v.dim(), v.is_floating_point(), tuple(d for d, size in enumerate(v.shape) if size == n), n == 1)
            for path, v in rules.tensors(args, kwargs)
        )
        modes = tuple((id(module), module.training) for module in model.modules())
        types = tuple(_types(args)), tuple((name, *_types((value,))) for name, value in kwargs.items())
        self.structure = modes, tensors, types
        seen: set[int] = set()
        settings = itertools.chain.from_iterable(
            _plain(_own(module), _DEPTH, seen) for module in model.modules() if not _is_known(module)
        )
        given = _plain((args, kwargs), _DEPTH + 2, set())
        self.values = tuple(tuple(itertools.islice(found, _MOST_LOOKED_AT)) for found in (given, settings))


class Findings:
    """What trials of one model found, by form."""

    def __init__(self) -> None:
        self.by_structure: dict[Any, dict[Any, Any]] = {}

    def get(self, form: Form) -> tuple[bool, Any]:
        """(whether something is known of a form, what). Values are without end (a number of steps, a temperature): once
        `MOST_VALUES` of them came out alike, further ones are taken to be like them."""
        by_values = self.by_structure.get(form.structure, {})
        if form.values in by_values:
            return True, by_values[form.values]
        if len(by_values) < MOST_VALUES:
            return False, None
        first = next(iter(by_values.values()))
        return all(found == first for found in by_values.values()), first

    def room_for(self, form: Form) -> bool:
        return form.structure in self.by_structure or len(self.by_structure) < MOST_FORMS

    def put(self, form: Form, found: Any) -> None:
        by_values = self.by_structure.setdefault(form.structure, {})
        if len(by_values) >= _REMEMBERED:
            by_values.pop(next(iter(by_values)))
        by_values[form.values] = found


def _is_known(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_TORCH)


def _own(module: nn.Module) -> list[Any]:
    return [value for name, value in module.__dict__.items() if name not in _OF_MODULES]


def _types(value: Any) -> Iterator[Any]:
    for item in value.values() if isinstance(value, dict) else value:
        if isinstance(item, (tuple, list, dict)):
            yield tuple(_types(item))
        else:
            yield item if isinstance(item, (bool, type(None))) else type(item)


def _plain(value: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    """The plain values in containers and objects, in order; each object once."""
    kind = type(value)
    if kind in _PLAIN:
        yield str(value) if kind is slice else value
    elif kind is Tensor:
        yield from _number(value)
    elif isinstance(value, enum.Enum):
        yield value.name
    elif isinstance(value, np.generic):
        yield value.item()
    elif depth > 0 and not isinstance(value, (Tensor, nn.Module)):
        items = _items(value)
        if items is not None and id(value) not in seen:
            seen.add(id(value))
            for item in items:
                yield from _plain(item, depth - 1, seen)


def _items(value: Any) -> Iterable[Any] | None:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, Mapping):
        return itertools.chain.from_iterable(value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if isinstance(value, type) or callable(value) or type(value).__module__.startswith(("torch.", "palora.")):
        return None
    return list(vars(value).values()) if hasattr(value, "__dict__") else None


def _number(tensor: Tensor) -> Iterator[Any]:
    """The value of a tensor without dimensions, where nothing has to be waited for."""
    if tensor.dim() == 0 and tensor.device.type == "cpu":
        try:
            yield tensor.item()
        except RuntimeError:  # torch.func's
            return
