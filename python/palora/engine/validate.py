"""The front of a model on one split, as the engine measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from palora.data import Batches, Lazy, Split
from palora.engine.config import RunConfig
from palora.engine.losses import loss_fn, measures, metric_fn
from palora.engine.setup import Parts
from palora.evaluation import Front, sweep


def front_of(
    parts: Parts,
    config: RunConfig,
    split: Split | Lazy,
    rays: Tensor,
    ray_chunk: int | None = None,
    check: Callable[[], None] | None = None,
) -> Front:
    """Losses and metrics of the model on `split` at `rays` (K, T), in float32 whatever the training
    precision.

    `ray_chunk`: the most rays in one pass. `check` is called before each batch and may raise, to leave early.
    """
    tasks = parts.dataset.tasks
    limits = [limit for limit in (ray_chunk, parts.method.rays_per_pass) if limit is not None]
    return sweep(
        parts.model,
        _placed(parts, split, config.batch, check),
        loss_fn(tasks),
        rays,
        metric_fn(tasks),
        min(limits, default=None),
        forward=parts.method.forward,
        tasks=tuple(task.name for task in tasks),
        note=f"{parts.method.name} on {parts.dataset.name}. {parts.dataset.note}",
        measures=measures(tasks),
    )


def _placed(
    parts: Parts, split: Split | Lazy, size: int, check: Callable[[], None] | None
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    for inputs, targets in Batches(split, size, shuffle=False):
        if check is not None:
            check()
        yield parts.place(inputs), targets


def volume(front: Front, config: RunConfig) -> float:
    """Hypervolume of the losses against the recipe's reference (ones if it has none)."""
    reference = None if config.reference is None else torch.tensor(config.reference, dtype=torch.float64)
    return front.hypervolume(reference)
