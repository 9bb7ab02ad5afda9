"""The same function on every tensor of what a model takes or returns: containers keep their types.

Tuples (named ones too), lists, mappings (Hugging Face's ModelOutput and BatchEncoding among them), dataclasses,
classes made by attrs and ``types.SimpleNamespace`` are gone through; a copy holds the replaced values. Other objects
are leaves.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


def map_tensors(function: Callable[[Tensor], Any], tree: Any, leaf: Callable[[Any], Any] | None = None) -> Any:
    """``tree`` with every tensor replaced; see `walk`."""
    return walk("", tree, lambda path, tensor: function(tensor), leaf)


def walk(path: str, tree: Any, change: Callable[[str, Tensor], Any], leaf: Callable[[Any], Any] | None = None) -> Any:
    """``tree`` with ``change(path, tensor)`` in the place of every tensor, and ``leaf(value)`` of anything else.

    A path is that of the tree, then keys, attributes and indices, joined by dots. Containers in which something changed
    are copies; the others are themselves, so that what a model appends to them is kept.

    Raises TypeError for a container that cannot be made again with other values in it.
    """
    if isinstance(tree, Tensor):
        return change(path, tree)
    keys = None
    if not (tree is None or isinstance(tree, (bool, int, float, str, PackedSequence))):
        keys = _keys(tree)  # a packed sequence is a named tuple, but its tensors are no rows
    if keys is None:
        return tree if leaf is None else leaf(tree)
    old = _values(tree, keys)
    new = [walk(f"{path}.{key}", value, change, leaf) for key, value in zip(keys, old, strict=True)]
    for before, after in zip(old, new, strict=True):
        if before is not after:
            return _made_again(tree, keys, new)
    return tree


def first_tensor(tree: Any) -> Tensor | None:
    """The first tensor with at least one dimension, in the order of `map_tensors`."""
    if isinstance(tree, Tensor):
        return tree if tree.dim() > 0 else None
    keys = None if isinstance(tree, PackedSequence) else _keys(tree)
    if keys is not None:
        for value in _values(tree, keys):
            found = first_tensor(value)
            if found is not None:
                return found
    return None


def hidden_tensors(value: Any) -> list[Tensor]:
    """Tensors in the attributes of a leaf, where `map_tensors` does not reach them.

    None in modules, and none in the key-value caches of language models, which are filled and read by the model alone.
    """
    if isinstance(value, PackedSequence):
        return [value.data]
    kinds = type(value).__mro__
    if isinstance(value, (nn.Module, type)) or callable(value) or any(kind.__name__ == "Cache" for kind in kinds):
        return []
    slots = [getattr(value, name, None) for kind in kinds for name in _slots(kind)]
    held = [first_tensor(attribute) for attribute in (*getattr(value, "__dict__", {}).values(), *slots)]
    return [tensor for tensor in held if tensor is not None]


def _slots(kind: type) -> Iterable[str]:
    found: Any = kind.__dict__.get("__slots__", ())
    return (found,) if isinstance(found, str) else found


def _keys(tree: Any) -> list[Any] | None:
    """Where a container's values are: attributes of a record, keys of a mapping, indices; None for a leaf."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return list(range(len(tree)))
    if kind is dict:
        return list(tree)
    if isinstance(tree, (type, nn.Module)):
        return None
    if is_dataclass(tree):
        return [field.name for field in fields(tree) if hasattr(tree, field.name)]
    if hasattr(kind, "__attrs_attrs__"):
        return [attribute.name for attribute in kind.__attrs_attrs__ if hasattr(tree, attribute.name)]
    if isinstance(tree, types.SimpleNamespace):
        return list(vars(tree))
    if isinstance(tree, Mapping):
        return list(tree)
    return list(range(len(tree))) if isinstance(tree, (tuple, list)) else None


def _is_record(tree: Any) -> bool:
    return is_dataclass(tree) or hasattr(type(tree), "__attrs_attrs__") or isinstance(tree, types.SimpleNamespace)


def _values(tree: Any, keys: list[Any]) -> list[Any]:
    if type(tree) is tuple or type(tree) is list:
        return list(tree)
    return [getattr(tree, key) for key in keys] if _is_record(tree) else [tree[key] for key in keys]


def _made_again(tree: Any, keys: list[Any], values: list[Any]) -> Any:
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind(values)
    if kind is dict:
        return dict(zip(keys, values, strict=True))
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple takes its fields one by one
        return kind(*values)
    items = dict(zip(keys, values, strict=True))
    try:
        if isinstance(tree, tuple):
            return kind(values)
        if isinstance(tree, Mapping) and not hasattr(tree, "__setitem__"):  # nobody changes it
            return kind(items)
        made: Any = copy.copy(tree)
        if _is_record(tree):
            _set_attributes(made, items)
        elif isinstance(tree, list):
            made[:] = values
        else:
            _set_items(made, items, {id(tree[key]): value for key, value in items.items()})
    except TypeError as error:
        raise TypeError(f"A {kind.__name__} cannot be made again with other values in it ({error}).") from error
    return made


def _set_attributes(record: Any, values: dict[str, Any]) -> None:
    """Also where the class is frozen; a record that is a mapping too, as ModelOutput is, has the same values there."""
    for name, value in values.items():
        if isinstance(record, Mapping) and name in record:
            record[name] = value  # type: ignore[index]
        object.__setattr__(record, name, value)


def _set_items(mapping: Any, values: dict[Any, Any], replaced: dict[int, Any]) -> None:
    """``replaced``: id of a value -> the new one, for those that are attributes as well."""
    for key, value in values.items():
        mapping[key] = value
    for name, value in list(getattr(mapping, "__dict__", {}).items()):
        if id(value) in replaced:
            object.__setattr__(mapping, name, replaced[id(value)])
