"""From n rows to M*n rows, once, where a pass enters an expansion point; and back with `split`.

Rows are ray-major: ray 0's n samples first. Between expansion and the output nothing needs to know about rays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palora.layers import private
from palora.layers.state import RayState, Slot

# torch's convention: two-dimensional masks under these names are (L, L) or (L, S), never batch-first.
_UNBATCHED_MASKS = ("attn_mask", "src_mask", "tgt_mask", "memory_mask", "mask")


class EnterPass:
    """Forward pre-hook of the adapted model: a new pass begins, its batch size is not known yet."""

    def __init__(self, state: RayState) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        slot = self.state.current()
        if slot is None:
            return
        if slot.depth == 0:
            slot.rows = None
        slot.depth += 1


class LeavePass:
    """Forward hook that ends what `EnterPass` began, also after an exception."""

    def __init__(self, state: RayState) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        slot = self.state.current()
        if slot is not None:
            slot.depth = max(slot.depth - 1, 0)


class EnterExpansion:
    """Forward pre-hook of an expansion point: expand every batch-first tensor argument from n to M*n rows."""

    def __init__(self, state: RayState) -> None:
        self.state = state

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        slot = self.state.current()
        if slot is None:
            return args, kwargs
        slot.inside += 1
        if slot.inside == 1 and not torch.compiler.is_compiling() and torch.is_grad_enabled():
            slot.first_node = private.next_number()
        if slot.mode != "many" or slot.inside > 1:
            return args, kwargs
        return expand_arguments(slot, args, kwargs)


class LeaveExpansion:
    """Forward hook that ends what `EnterExpansion` began, also after an exception."""

    def __init__(self, state: RayState) -> None:
        self.state = state

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        slot = self.state.current()
        if slot is None:
            return
        slot.inside = max(slot.inside - 1, 0)
        if slot.inside > 0:
            return
        if not torch.compiler.is_compiling() and torch.is_grad_enabled():
            last = private.next_number()
            self.state.remember(last if slot.first_node is None else slot.first_node, last, slot)
        slot.expanded = []
        if slot.depth == 0:
            slot.rows = None


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.dim() > 0 else None
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            found = _first_tensor(item)
            if found is not None:
                return found
    return None


def expand_arguments(
    slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat every tensor whose first dimension is the batch. The batch size is that of the first tensor argument.

    Two-dimensional masks in the arguments that torch's transformers call attn_mask, src_mask, ... are not batch-first
    and stay as they are.
    """
    first = _first_tensor(args)
    if first is None:
        first = _first_tensor(kwargs)
    if first is None:
        raise ValueError(
            "The model was called under several rays without a tensor argument to expand. "
            "Pass the batch as a tensor, or use one ray at a time."
        )
    n = first.shape[0]
    if slot.rows is not None and n == slot.rows * slot.count:
        return args, kwargs  # an earlier expansion point of this pass has expanded it already
    slot.rows = n
    new_args = tuple(_expand(slot, n, value) for value in args)
    new_kwargs = {
        name: value if _is_unbatched_mask(name, value) else _expand(slot, n, value) for name, value in kwargs.items()
    }
    return new_args, new_kwargs


def _is_unbatched_mask(name: str, value: Any) -> bool:
    return name in _UNBATCHED_MASKS and isinstance(value, Tensor) and value.dim() == 2


def _expand(slot: Slot, n: int, value: Any) -> Any:
    if isinstance(value, Tensor):
        if value.dim() == 0 or value.shape[0] != n or slot.count == 1:
            return value
        expanded = torch.cat([value] * slot.count)  # keeps channels_last, unlike repeat
        slot.expanded.append((expanded, value))
        return expanded
    if isinstance(value, tuple):
        items = [_expand(slot, n, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_expand(slot, n, item) for item in value]
    if isinstance(value, dict):
        return {key: _expand(slot, n, item) for key, item in value.items()}
    return value


def split(outputs: Any, rays: int) -> Any:
    """Undo the stacking of rays: every tensor (M*n, ...) -> (M, n, ...), through tuples, lists and dicts.

    Args:
        outputs: what the adapted model returned under M rays.
        rays: M.

    Raises:
        ValueError: a tensor whose first dimension is not a multiple of ``rays``.
    """
    if isinstance(outputs, Tensor):
        if outputs.dim() == 0 or outputs.shape[0] % rays:
            raise ValueError(
                f"`outputs` should have a multiple of {rays} rows, one group a ray. Found shape {tuple(outputs.shape)}."
            )
        return outputs.unflatten(0, (rays, outputs.shape[0] // rays))
    if isinstance(outputs, tuple):
        items = [split(item, rays) for item in outputs]
        return type(outputs)(*items) if hasattr(outputs, "_fields") else tuple(items)
    if isinstance(outputs, list):
        return [split(item, rays) for item in outputs]
    if isinstance(outputs, dict):
        return {key: split(item, rays) for key, item in outputs.items()}
    return outputs
