"""Rows given to rays by hand, inside a forward: gathered rows of experts, packed rows of ragged batches."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from palora.layers import private
from palora.layers.ray_layer import RayLayer
from palora.layers.routing import RowsError
from palora.layers.state import RayState, Slot


def _state(module: nn.Module) -> RayState | None:
    for child in module.modules():
        if isinstance(child, RayLayer):
            return child.rays_state
    return None


def checked_index(index: Any, rays: int, device: torch.device) -> Tensor:
    """An index of rays on the rays' device: one dimension, integers from 0 to ``rays`` - 1."""
    found = torch.as_tensor(index, device=device)
    if found.dim() != 1 or found.is_floating_point() or found.dtype == torch.bool:
        raise ValueError(
            f"`rows` should have one dimension of integers, the ray of every row. Found shape {tuple(found.shape)}, "
            f"{found.dtype}."
        )
    on_host = found.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_host and len(found) and not 0 <= int(found.min()) <= int(found.max()) < rays:
        raise ValueError(f"`rows` should hold rays 0 to {rays - 1}. Found {int(found.min())} to {int(found.max())}.")
    return found.long()


def rays_of(module: nn.Module, x: Tensor) -> Tensor:
    """Which ray each row of the batch belongs to: (len(x),) integers, to be gathered as the rows are.

    Args:
        module: any module of the adapted model with adapted layers in it, for example ``self`` in a forward.
        x: a tensor with the rows of the expanded batch, or a multiple of them, in dimension 0.

    Without rays, at one ray, and in a merged model all are 0.

    Raises:
        RowsError: rows that are not the batch's.
    """
    state = _state(module)
    slot = None if state is None else state.current()
    if slot is None or slot.mode == "one":
        return torch.zeros(x.shape[0], dtype=torch.long, device=x.device)
    if slot.batch == 0 or x.shape[0] % slot.batch:
        raise RowsError(f"`x` should have a multiple of {slot.batch} rows, the batch's. Found shape {tuple(x.shape)}.")
    return torch.arange(slot.count, device=x.device).repeat_interleave(x.shape[0] // slot.count)


class rows:
    """Inside ``with palora.rows(module, index):`` row i of what ``module`` is given belongs to ray ``index[i]``.

    For forwards that choose rows by their values::

        ray = palora.rays_of(self, x)
        for i, expert in enumerate(self.experts):
            chosen = (route == i).nonzero().flatten()
            with palora.rows(expert, ray[chosen]):
                out[chosen] = expert(x[chosen])

    Args:
        module: what is called inside; its adapted layers take the rays of their rows from the index.
        index: (rows,) integers, gathered from `rays_of`. A layer may see k rows for each entry, lying together.

    Without rays, at one ray, and in a merged model it changes nothing. Batch normalisation inside normalises each ray's
    rows by themselves.

    Raises:
        ValueError: an index that is not one of rays.
    """

    def __init__(self, module: nn.Module, index: Tensor) -> None:
        self.state = _state(module)
        self.index = index

    def __enter__(self) -> None:
        slot = None if self.state is None else self.state.current()
        if self.state is None or slot is None or slot.mode == "one":
            return
        index = checked_index(self.index, slot.count, slot.rays.device)
        task = -1 if torch.compiler.is_compiling() else private.graph_task()
        # Without rows there is nothing to choose.
        given = Slot(slot.rays[index], "per_sample", task) if len(index) else Slot(slot.rays[:1], "one", task)
        given.index, given.groups = index, slot.count if slot.mode == "many" else 0
        if slot.index is not None and slot.groups:
            given.index, given.groups = slot.index[index], slot.groups
        given.used, given.trial, given.inside, given.depth = slot.used, slot.trial, slot.inside, slot.depth
        self.state.enter(given, self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.state is not None:
            self.state.leave(self)
