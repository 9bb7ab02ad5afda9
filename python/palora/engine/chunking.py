"""The gradients of a step with the rays in groups: memory for a few rays, gradients as for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from palora.engine.rng import rng_state, set_rng_state
from palora.errors import PaloraError
from palora.methods import Method

Losses = Callable[[Tensor], Tensor]
"""Rays (m, T) → the mean losses of this step's batch at them, (m, T), with their graph."""


def accumulate(
    method: Method, model: nn.Module, losses_at: Losses, rays: Tensor, ray_chunk: int | None = None
) -> Tensor:
    """Add the gradients of one step to ``.grad``; return the losses (M, T), detached.

    `ray_chunk`: the most rays in one pass; None means no limit but the method's own (`Method.rays_per_pass`).
    The gradients are those of a single pass to rounding, whether or not the objective couples the rays;
    random numbers and batch statistics advance once, ray after ray.
    """
    limit = min(chunk for chunk in (ray_chunk, method.rays_per_pass, len(rays)) if chunk is not None)
    if limit >= len(rays):
        losses = losses_at(rays)
        method.backward(model, losses, rays)
        return losses.detach()
    groups = rays.split(limit)
    if method.couples_rays:
        return _coupled(method, model, losses_at, rays, groups)
    seen = []
    for group in groups:
        losses = losses_at(group)
        method.backward(model, losses, group)
        seen.append(losses.detach())
    return torch.cat(seen)


def _coupled(method: Method, model: nn.Module, losses_at: Losses, rays: Tensor, groups: tuple[Tensor, ...]) -> Tensor:
    """Σ_mt (∂total/∂L_mt) ∂L_mt/∂θ: the factors in a first pass without a graph, then group by group."""
    if not issubclass(_definer(method, "backward_weighted"), _definer(method, "backward")):
        raise PaloraError(
            f"The method '{method.name}' needs the gradients of all rays at once, so it cannot run them in "
            "chunks: leave out --ray-chunk, or lower --rays or --batch."
        )
    with torch.no_grad(), rewound(model):
        losses = torch.cat([losses_at(group) for group in groups])
    # The objective may have parameters of its own (learnt weights): its backward reaches them as well.
    losses.requires_grad_()
    method.objective(losses, rays).backward()
    assert losses.grad is not None
    for group, factors in zip(groups, losses.grad.split(len(groups[0])), strict=True):
        method.backward_weighted(model, losses_at(group), group, factors)
    return losses.detach()


def _definer(method: Method, name: str) -> type:
    """The class that defines what `method` does under `name`."""
    return next(kind for kind in type(method).__mro__ if name in vars(kind))


@contextmanager
def rewound(model: nn.Module) -> Iterator[None]:
    """On leaving, put back buffers (running statistics) and random generators, as if nothing had run."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    generators = rng_state()
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        set_rng_state(generators)
