"""From fronts to columns of numbers: one value a task, in metrics or in losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from palora.evaluation import Front
from palora.evaluation.direction import metrics_of_task

Runs = Mapping[str, Front | Sequence[Front]]


def as_runs(named: Runs | Front | None) -> dict[str, list[Front]]:
    """Every entry as a list of fronts, one a seed."""
    if isinstance(named, Front):
        named = {"": named}
    return {name: [runs] if isinstance(runs, Front) else list(runs) for name, runs in (named or {}).items()}


def loss_names(front: Front) -> list[str]:
    """The names of the losses as the figures show them: "loss/<task>"."""
    return [f"loss/{task}" for task in front.tasks]


def metric_names(front: Front) -> list[str] | None:
    """One metric a task, by its name or, where no name says whose it is, its position; or None."""
    found = [metrics_of_task(task, list(front.metrics))[:1] for task in front.tasks]
    if all(found):
        return [names[0] for names in found]
    return list(front.metrics) if len(front.metrics) == len(front.tasks) and not any(found) else None


def columns(front: Front, names: Sequence[str]) -> Tensor:
    """(M, T) float64 values of `names`; NaN where the front has none."""
    losses = dict(zip(loss_names(front), front.losses.T, strict=True))
    missing = torch.full((len(front),), torch.nan)
    values = [losses.get(name, front.metrics.get(name, missing)) for name in names]
    return torch.stack([value.double() for value in values], 1)


def nondominated_rows(front: Front) -> Tensor:
    """(M,) bool, on losses; rays whose losses are not finite are dominated."""
    finite = front.losses.isfinite().all(1)
    mask = torch.zeros(len(front), dtype=torch.bool)
    if finite.any():
        mask[finite] = Front(front.rays[finite], front.losses[finite]).nondominated()
    return mask
