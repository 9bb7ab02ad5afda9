"""The numbers of a front that go into a table: the flattering ones and the honest ones side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from palora.evaluation.direction import is_accuracy, larger_is_better, metrics_of_task
from palora.evaluation.front import Front
from palora.evaluation.hypervolume import hypervolume
from palora.rays.grid import fixed_rays


def summary(
    front: Front,
    loss_reference: float | Sequence[float] = 1.0,
    accuracies: Sequence[str] | None = None,
    fixed: Front | None = None,
) -> dict[str, Any]:
    """What there is to say about a front, as nested dictionaries of JSON values.

    * ``hypervolume``: of the losses, up to `loss_reference`; and of the accuracies, down to 0 (None without
    any).
    * ``nondominated``: how many rays of how many no other ray dominates, on losses.
    * ``spearman``: task → rank correlation of its weight and its loss, −1 is ideal (None if undefined).
    * ``best_of_grid``: metric or loss → the best value and the ray it comes from. The tables of the papers
      quote these; each number comes from a different ray, so no single model has them all.
    * ``fixed_rays``: the losses and metrics at each vertex, named by its task, and in the centre: what a user
      gets who does not search (None where the front has no such ray).

    Args:
        front: the evaluated grid.
        loss_reference: one number, or one a task.
        accuracies: names of the metrics in [0, 1] whose hypervolume is meant; None: those whose name says
        accuracy, if every task has one.
        fixed: a front on :func:`palora.rays.fixed_rays` for grids without the centre, such as the 66 rays of
        three tasks.
    """
    if accuracies is None:
        accuracies = _accuracies(front)
    reference = torch.as_tensor(loss_reference, dtype=torch.float64)
    if reference.ndim > 1 or (reference.ndim == 1 and len(reference) != len(front.tasks)):
        raise ValueError(
            f"`loss_reference` should be one number, or one for each of the {len(front.tasks)} tasks. Found shape "
            f"{tuple(reference.shape)}."
        )
    reference = reference.expand(len(front.tasks))
    columns = [front.metrics[name] for name in accuracies]
    return {
        "hypervolume": {
            "losses": hypervolume(front.losses, reference),
            "losses_reference": reference.tolist(),
            "accuracies": hypervolume(torch.stack(columns, 1), 0.0, maximise=True) if columns else None,
            "accuracies_reference": [0.0] * len(columns) if columns else None,
        },
        "nondominated": {"count": int(front.nondominated().sum()), "of": len(front)},
        "spearman": {
            task: None if math.isnan(value) else value
            for task, value in zip(front.tasks, front.monotonicity().tolist(), strict=True)
        },
        "best_of_grid": {name: _best(front, name, values) for name, values in _columns(front).items()},
        "fixed_rays": {name: _at(front if fixed is None else fixed, ray) for name, ray in _named_rays(front)},
    }


def _accuracies(front: Front) -> list[str]:
    """One accuracy a task, or none: where a task has another metric they are a part of the objectives only."""
    named = [name for name in front.metrics if is_accuracy(name)]
    found = [metrics_of_task(task, named)[:1] for task in front.tasks]
    return [names[0] for names in found] if all(found) else []


def _columns(front: Front) -> dict[str, Tensor]:
    """Everything measured at every ray, by name: the metrics, and "loss/<task>"."""
    return {**front.metrics, **{f"loss/{task}": front.losses[:, t] for t, task in enumerate(front.tasks)}}


def _named_rays(front: Front) -> list[tuple[str, Tensor]]:
    return list(zip((*front.tasks, "centre"), fixed_rays(len(front.tasks)), strict=True))


def _best(front: Front, name: str, values: Tensor) -> dict[str, Any]:
    index = int(values.argmax() if larger_is_better(name) else values.argmin())
    return {"value": values[index].item(), "ray": _plain(front.rays[index])}


def _at(front: Front, ray: Tensor) -> dict[str, float] | None:
    """Everything measured at `ray`, or None if the front was not evaluated there."""
    distance = (front.rays.double() - ray.double()).abs().amax(1)
    if not len(front) or distance.min() > 1e-5:
        return None
    index = int(distance.argmin())
    return {name: values[index].item() for name, values in _columns(front).items()}


def _plain(ray: Tensor) -> list[float]:
    return [round(value, 6) for value in ray.tolist()]
