"""Back from the rows of all rays to each ray's: `palora.split`.

Most outputs have their rows in dimension 0. Of others, as the state of a recurrent layer, a trial has found where they
are; it is remembered for the tensors that a pass returned, as long as they live.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from palora.layers.comparing import leaves
from palora.trees import hidden_tensors, map_tensors

# The dimension of the batch. "same": of all rays the same, without a batch; "stacked": a ray alone has no dimension of
# its one sample, many rays have one; "one": a number that all rays have a part in.
Place = int | Literal["same", "stacked", "one"]

_PLACES: Any = WeakIdKeyDictionary()


def note_places(outputs: Any, places: list[Place]) -> None:
    """Remember where the tensors of ``outputs`` have their rows, if not all in dimension 0."""
    if all(place == 0 for place in places):
        return
    tensors = leaves(outputs)
    if len(tensors) == len(places):
        for tensor, place in zip(tensors, places, strict=True):
            _PLACES[tensor] = place


def split(outputs: Any, rays: int) -> Any:
    """Undo the stacking of rays: every tensor (M*n, ...) -> (M, n, ...), through tuples, lists, mappings and
    dataclasses, which keep their types (Hugging Face's model outputs among them): entry m is what ray m gives alone.

    A tensor as the model returned it, (L, M*n, H) of a recurrent state for example, is split where its batch is, into
    (M, L, n, H); one that does not depend on the batch is repeated. What is computed from it is split in dimension 0.

    Args:
        outputs: what the adapted model returned under M rays.
        rays: M.

    Raises:
        ValueError: a tensor whose dimension of the batch is not a multiple of ``rays``, or that has none.
        TypeError: an object of another kind that holds tensors, or a tensor that is neither dense nor sparse COO.
    """
    if isinstance(rays, bool) or not isinstance(rays, int) or rays < 1:
        raise ValueError(f"`rays` should be the number of rays, an integer >= 1. Found {rays!r}.")

    def apart(tensor: Tensor) -> Tensor:
        return _apart(tensor, rays, 0 if torch.compiler.is_compiling() else _PLACES.get(tensor, 0))

    def refuse(leaf: Any) -> Any:
        if hidden_tensors(leaf):
            raise TypeError(
                f"`outputs` should be tensors, or tuples, lists, mappings or dataclasses of them. Found a "
                f"{type(leaf).__name__} that holds tensors, which palora.split cannot take apart."
            )
        return leaf

    return map_tensors(apart, outputs, refuse)


def _apart(tensor: Tensor, rays: int, place: Place) -> Tensor:
    sparse = tensor.layout is torch.sparse_coo
    if tensor.is_nested or not (sparse or tensor.layout is torch.strided):
        kind = "nested" if tensor.is_nested else str(tensor.layout)
        raise TypeError(f"`outputs` should be dense tensors, or sparse COO ones. Found {kind}; convert it first.")
    if place == "same":
        return torch.stack([tensor] * rays) if sparse else tensor.expand(rays, *tensor.shape)
    if place == "stacked" and tensor.shape[0] == rays:
        return tensor
    if place == "one" or tensor.dim() == 0:
        raise ValueError(
            f"`outputs` should have a multiple of {rays} rows, one group a ray. Found one number for all rays; let the "
            "model return a value a row (reduction='none'), or use one ray at a time."
        )
    axis = place if isinstance(place, int) else 0
    if tensor.shape[axis] % rays:
        raise ValueError(
            f"`outputs` should have a multiple of {rays} rows, one group a ray, in dimension {axis}. Found shape "
            f"{tuple(tensor.shape)}."
        )
    n = tensor.shape[axis] // rays
    if not sparse:
        return tensor.unflatten(axis, (rays, n)).movedim(axis, 0)
    if axis >= tensor.sparse_dim():
        raise TypeError(
            f"`outputs` should have their rows in a sparse dimension. Found them in dimension {axis}; convert it first."
        )
    whole = tensor.coalesce()
    index = torch.cat([whole.indices()[axis : axis + 1] // n, whole.indices()])
    index[axis + 1] %= n
    shape = (rays, *tensor.shape[:axis], n, *tensor.shape[axis + 1 :])
    return torch.sparse_coo_tensor(index, whole.values(), shape, check_invariants=True)
