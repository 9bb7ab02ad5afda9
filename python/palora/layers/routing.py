"""What an adapted layer asks before it computes: which rays, which rows, shared or stacked."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from palora.layers.state import RayState, Slot


class Route(NamedTuple):
    rows: Tensor  # (P, ...) what the layer multiplies
    rays: Tensor  # (M, T)
    shared: bool


def active_slot(module: nn.Module) -> Slot:
    """The slot of an adapted layer, or an error that says how to give it rays."""
    state: RayState | None = getattr(module, "rays_state", None)
    slot = None if state is None else state.current()
    if slot is None:
        raise RuntimeError(
            f"{type(module).__name__} was called without rays. Call the model inside "
            "`with palora.at(model, rays):`, or merge one preference with `palora.merge(model, ray)`."
        )
    return slot


def route(module: nn.Module, x: Tensor) -> Route:
    """Rows and rays of this call.

    Raises:
        RuntimeError: no active rays, or several rays outside an expansion point.
        ValueError: the number of rows does not fit the number of rays.
    """
    slot = active_slot(module)
    if slot.mode == "many":
        for expanded, original in slot.expanded:
            if x is expanded:
                return Route(original, slot.rays, True)
        if slot.inside == 0:
            raise RuntimeError(
                f"{type(module).__name__} ran outside an expansion point while {slot.count} rays are active, so its "
                "rows belong to no ray. Call the adapted model itself, or name a module around this layer in "
                "`expand_at` of palora.adapt."
            )
    if slot.count == 0 and x.shape[0] == 0:  # an empty batch, with a ray for each of its rows
        return Route(x, slot.rays.new_zeros(1, slot.rays.shape[1]), False)
    if slot.count == 0 or x.shape[0] % slot.count:
        what = "one row a ray of `rays` (per_sample=True)" if slot.mode == "per_sample" else "M*n rows"
        raise ValueError(
            f"{type(module).__name__} expected {what}, a multiple of {slot.count}. "
            f"Found an input of shape {tuple(x.shape)}."
        )
    return Route(x, slot.rays, False)
