"""From n rows to M*n rows, once, where a pass enters an expansion point; and back with `split`.

Rows are ray-major: ray 0's n samples first. Between expansion and the output nothing needs to know about rays.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from palora.layers import private
from palora.layers.state import RayState, Slot
from palora.trees import first_tensor, hidden_tensors, map_tensors

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


def expand_arguments(
    slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Repeat every tensor whose first dimension is the batch. The batch size is that of the first tensor argument.

    Two-dimensional masks in the arguments that torch's transformers call attn_mask, src_mask, ... are not batch-first
    and stay as they are.
    """
    first = first_tensor(args)
    if first is None:
        first = first_tensor(kwargs)
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
    def expand(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0 or tensor.shape[0] != n or slot.count == 1:
            return tensor
        expanded = torch.cat([tensor] * slot.count)  # keeps channels_last, unlike repeat
        slot.expanded.append((expanded, tensor))
        return expanded

    def refuse(leaf: Any) -> Any:
        if slot.count > 1 and any(isinstance(leaf, PackedSequence) or t.shape[0] == n for t in hidden_tensors(leaf)):
            raise TypeError(
                f"The model was called under {slot.count} rays with a {type(leaf).__name__}, whose tensors cannot be "
                "expanded to a row a ray. Pass tensors, or tuples, lists, mappings or dataclasses of them."
            )
        return leaf

    return map_tensors(expand, value, refuse)


def split(outputs: Any, rays: int) -> Any:
    """Undo the stacking of rays: every tensor (M*n, ...) -> (M, n, ...), through tuples, lists, mappings and
    dataclasses, which keep their types (Hugging Face's model outputs among them).

    Args:
        outputs: what the adapted model returned under M rays.
        rays: M.

    Raises:
        ValueError: a tensor whose first dimension is not a multiple of ``rays``.
        TypeError: an object of another kind that holds tensors.
    """
    if isinstance(rays, bool) or not isinstance(rays, int) or rays < 1:
        raise ValueError(f"`rays` should be the number of rays, an integer >= 1. Found {rays!r}.")

    def apart(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0 or tensor.shape[0] % rays:
            raise ValueError(
                f"`outputs` should have a multiple of {rays} rows, one group a ray. Found shape {tuple(tensor.shape)}."
            )
        return tensor.unflatten(0, (rays, tensor.shape[0] // rays))

    def refuse(leaf: Any) -> Any:
        if hidden_tensors(leaf):
            raise TypeError(
                f"`outputs` should be tensors, or tuples, lists, mappings or dataclasses of them. Found a "
                f"{type(leaf).__name__} that holds tensors, which palora.split cannot take apart."
            )
        return leaf

    return map_tensors(apart, outputs, refuse)
