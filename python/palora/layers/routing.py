"""What an adapted layer asks before it computes: which rays, which rows, shared or stacked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from palora.layers.layouts import Layout, Unbatched
from palora.layers.ray_layer import RayLayer
from palora.layers.state import Slot


class RowsError(ValueError):
    """Rows whose rays are not known: a layer's input is not the expanded batch, or samples of it see each other.

    Attributes:
        module: the name of the adapted layer at which that was seen; "" for the model.
    """

    def __init__(self, text: str, module: str = "") -> None:
        super().__init__(text)
        self.module = module


class OutsideError(RuntimeError):
    """An adapted layer that no expansion point is around, under several rays."""


class Route(NamedTuple):
    rows: Tensor  # (P, ...) what the layer multiplies, ray-major
    rays: Tensor  # (M, T)
    shared: bool
    layout: Layout | Unbatched | None  # that of the layer's input, to be restored in its output


def describe(module: RayLayer) -> str:
    return f"{type(module).__name__} {module.rays_name!r}" if module.rays_name else type(module).__name__


def active_slot(module: RayLayer) -> Slot:
    """The slot of an adapted layer, or an error that says how to give it rays."""
    state = getattr(module, "rays_state", None)
    slot: Slot | None = None if state is None else state.current()
    if slot is None:
        raise RuntimeError(
            f"{type(module).__name__} was called without rays. Call the model inside "
            "`with palora.at(model, rays):`, or merge one preference with `palora.merge(model, ray)`."
        )
    return slot


def _shared_rows(slot: Slot, x: Tensor) -> Tensor | None:
    """The n rows that every ray sees, if ``x`` is the expanded batch as it was made; changed in place it is not."""
    for pair in slot.expanded:
        if x is pair.grown:
            if torch.compiler.is_compiling():  # no versions there: one ray's copy has changed as the others'
                return x.narrow(0, 0, pair.original.shape[0])
            return pair.original if x._version == pair.version else None
    return None


def route(module: RayLayer, x: Tensor) -> Route:
    """Rows and rays of this call.

    Raises:
        RuntimeError: no active rays, or several rays outside an expansion point.
        RowsError: the number of rows does not fit the batch and the number of rays.
    """
    slot = active_slot(module)
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{describe(module)} expected a tensor. Found a {type(x).__name__}; for torch.fx, merge one preference "
            "first with palora.merge, or trace with torch.export."
        )
    if x.is_nested or x.layout is not torch.strided:
        kind = "a nested one" if x.is_nested else f"one of layout {x.layout}"
        raise TypeError(
            f"{describe(module)} takes dense tensors. Found {kind}; convert it, or leave the layer unadapted with "
            f"exclude=[{module.rays_name or '*'!r}] of palora.adapt."
        )
    if not torch.compiler.is_compiling():
        slot.used.add(module.rays_name)
    if x.dim() == (3 if isinstance(module, nn.Conv2d) else 1 if isinstance(module, nn.Linear) else -1):
        return _without_batch(module, slot, x)
    if x.dim() == 0:
        raise ValueError(f"{describe(module)} expected an input of shape (P, ...). Found a tensor without dimensions.")
    if slot.mode == "many":
        shared = _shared_rows(slot, x) if module.row_layout is None else None
        if shared is not None:
            return Route(shared, slot.rays, True, None)
        if slot.inside == 0:
            raise OutsideError(
                f"{describe(module)} ran outside an expansion point while {slot.count} rays are active, so its "
                "rows belong to no ray. Call the adapted model itself, or name a module around this layer in "
                "`expand_at` of palora.adapt."
            )
    if slot.count == 0 and x.shape[0] == 0:  # an empty batch, with a ray for each of its rows
        return Route(x, slot.rays.new_zeros(1, slot.rays.shape[1]), False, None)
    layout = None
    if module.row_layout is not None and slot.index is None and slot.mode != "one":
        layout = Layout(module.row_layout, slot.batch)
        x = layout.batch_first(x, describe(module))
    if slot.trial is not None:
        slot.trial.saw(module, slot, x)
    if x.shape[0] % slot.batch if slot.batch else x.shape[0]:
        raise RowsError(_misfit(module, slot, x), module.rays_name)
    if slot.known is not None and slot.index is None and x.shape[0] != slot.batch:
        slot.known.confirm(module, slot, x)
    return Route(x, slot.rays, False, layout)


def _without_batch(module: RayLayer, slot: Slot, x: Tensor) -> Route:
    if slot.count != 1:
        raise RowsError(
            f"{describe(module)} expected a batch for {slot.count} rays. Found an input of shape {tuple(x.shape)}, one "
            "sample without a dimension of the batch; keep that dimension, or use one ray at a time.",
            module.rays_name,
        )
    if slot.trial is not None:
        slot.trial.saw(module, slot, x)
    return Route(x[None], slot.rays, False, Unbatched())


def _misfit(module: RayLayer, slot: Slot, x: Tensor) -> str:
    if slot.mode == "per_sample":
        what = "one row a ray of `rays` (per_sample=True), a multiple of"
    elif slot.mode == "many":
        what = f"M*n rows ({slot.count} rays of a batch of {slot.rows}), a multiple of"
    else:
        what = "a multiple of"
    return (
        f"{describe(module)} expected {what} {slot.batch}. Found an input of shape {tuple(x.shape)}; rows that are "
        "gathered, packed or batch-second are given to rays with `palora.rows`, or `rows=` of palora.adapt."
    )
