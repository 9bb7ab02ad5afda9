"""`with palora.at(model, rays):` the preference at which a model is evaluated."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from palora.layers import private
from palora.layers.by_hand import checked_index
from palora.layers.compiled import try_before_compiled
from palora.layers.expansion import EnterPass
from palora.layers.inside import inside
from palora.layers.ray_layer import RayLayer
from palora.layers.state import Mode, RayState, Slot
from palora.layers.wiring import connect, ray_modules, states_of
from palora.precision import widest


def _state(model: nn.Module) -> RayState:
    """The model's one state; layers that were placed by hand are connected here, with the model as expansion point."""
    states = states_of(model)
    if not states:
        raise ValueError(
            f"`model` ({type(model).__name__}) has no adapted layers. Call palora.adapt(model, tasks, rank) first."
        )
    if len(states) == 1 and states[0] is not None:
        return states[0]
    tasks = {layer.tasks for layer in ray_modules(model)}
    if len(tasks) > 1:
        raise ValueError(f"`model` has adapted layers of different numbers of tasks: {sorted(tasks)}.")
    state = RayState(tasks.pop())
    connect(model, state, [model])
    return state


def _try_before_compiled(model: nn.Module, state: RayState) -> None:
    plain = inside(model)
    for hook in plain._forward_pre_hooks.values():
        if isinstance(hook, EnterPass) and hook.trial:
            try_before_compiled(model, plain, state, hook.rules)


def _as_tensor(rays: Any, layer: RayLayer) -> Tensor:
    kind = getattr(rays, "dtype", None)
    if getattr(kind, "is_complex", False) or getattr(kind, "kind", "") == "c":
        raise ValueError(f"`rays` should be real numbers. Found {kind}.")
    tensor = rays if isinstance(rays, Tensor) else torch.as_tensor(rays, dtype=torch.float64)
    if on_host(tensor) and not bool(tensor.isfinite().all()):
        raise ValueError(f"`rays` should be finite numbers. Found {tensor[~tensor.isfinite()][0].item()}.")
    device = layer.weight.device
    tensor = tensor.to(ray_dtype(tensor, device))
    return tensor.to(device, non_blocking=may_run_ahead(tensor, device))


def on_host(tensor: Tensor) -> bool:
    """Whether values can be looked at for nothing: no device need be waited for, and nobody traces operations."""
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
    return plain and not torch.compiler.is_compiling() and not private.watched(type(None))


def ray_dtype(rays: Tensor, device: torch.device) -> torch.dtype:
    """float32 or wider, as given; float32 on a device that has nothing wider."""
    if not rays.is_floating_point() or rays.dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    return widest(device) if rays.dtype == torch.float64 else rays.dtype


def may_run_ahead(tensor: Tensor, device: torch.device) -> bool:
    """Whether a copy to the device need not be waited for: from the host's ordinary memory, which is read before the
    call returns. Pinned memory is read later, when the caller may have changed it."""
    if device.type != "cuda" or tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not tensor.is_pinned()


class at:
    """Make rays active for a model's adapted layers inside a ``with`` block; may be nested, and entered again.

    Threads and asyncio tasks have blocks of their own (`contextvars`): a task has those of whoever started it, until it
    opens others. A generator shares its caller's, in both directions.

    Args:
        model: an adapted model (or one with adapted layers placed by hand; wrapped by DDP or torch.compile is fine).
        rays: (T,), one preference: the model returns its ordinary output. (M, T): every batch-first tensor argument
            grows from n to M*n rows, ray-major, and so does the output. Tensor, array or nested list.
        per_sample: rays is (n, T) and row i of the batch uses ray i; nothing is expanded.
        rows: (P,) integers: the batch's P rows as they come, row i at ``rays[rows[i]]`` of rays (M, T). For batches of
            packed or gathered rows; nothing is expanded.

    Rays outside the simplex are allowed (the papers probe (1, -1)); gradients flow to ``rays`` if it requires them.

    Raises:
        ValueError: no adapted layers, rays that do not fit the model's tasks, complex ones, or ones with nan or inf
            (not looked for in rays on a device, which would have to be waited for).
        RuntimeError: blocks that were closed in another order than opened.
    """

    def __init__(self, model: nn.Module, rays: Any, per_sample: bool = False, rows: Any = None) -> None:
        self.state = _state(model)
        if not torch.compiler.is_compiling():
            _try_before_compiled(model, self.state)
        layer = ray_modules(model)[0]
        tensor = _as_tensor(rays, layer)
        tasks = self.state.tasks
        allowed = (2,) if per_sample else (1, 2)
        if tensor.dim() not in allowed or tensor.shape[-1] != tasks or (not per_sample and tensor.shape[0] == 0):
            expected = f"(n, {tasks})" if per_sample else f"({tasks},) or (M, {tasks}) with M >= 1"
            raise ValueError(f"`rays` should have shape {expected}. Found {tuple(tensor.shape)}.")
        self.mode: Mode = "per_sample" if per_sample else ("one" if tensor.dim() == 1 else "many")
        self.rays = tensor[None] if tensor.dim() == 1 else tensor
        self.rows: Tensor | None = None
        self.groups = 0
        if rows is not None:
            if self.mode != "many":
                raise ValueError("`rows` goes with rays of shape (M, T), and without per_sample.")
            self.rows, self.groups = checked_index(rows, self.rays.shape[0], self.rays.device), self.rays.shape[0]
            self.mode, self.rays = "per_sample", self.rays[self.rows]

    def __enter__(self) -> None:
        task = -1 if torch.compiler.is_compiling() else private.graph_task()
        slot = Slot(self.rays, self.mode, task)
        slot.index, slot.groups = self.rows, self.groups
        if not torch.compiler.is_compiling():
            slot.first_node_of_block = private.next_number()
        self.state.enter(slot, self)
        if slot.below is not None and not torch.compiler.is_compiling():
            slot.used = slot.below.used  # layers that a pass around this block applies in it

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.state.leave(self) and kind is None:
            raise RuntimeError(
                "Blocks of palora.at on one model were closed in another order than opened, as by two generators that "
                "run by turns inside such blocks: they share their caller's rays, and some answers may have been "
                "another block's. Run each with contextvars.copy_context().run, or leave the block before `yield`."
            )
