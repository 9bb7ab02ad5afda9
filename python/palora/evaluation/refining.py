"""Between the rays of a grid: a preference that is better than all of them, found by evaluating and by gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.evaluation.front import Front
from palora.evaluation.measures import Measure
from palora.evaluation.naming import on_simplex
from palora.evaluation.selection import UnreachableError
from palora.evaluation.sensitivity import sensitivity
from palora.evaluation.sweep import Forward, sweep

Choose = Callable[[Front], Tensor]
"""A front → one of its rays, as `palora.select`, `palora.knee` and `palora.nearest` do once the rest is given."""

ROUNDS = 6
_TINY = 1e-6


class Refined(NamedTuple):
    """The preference that was found, (T,), and everything that was evaluated: the grid first, then what was tried."""

    ray: Tensor
    front: Front


def refine(
    model: nn.Module,
    front: Front,
    choose: Choose,
    batches: Iterable[tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    metric_fn: Callable[[Any, Any], dict[str, Tensor]] | None = None,
    rays_per_pass: int | None = None,
    *,
    rounds: int = ROUNDS,
    forward: Forward | None = None,
    measures: Mapping[int, Measure] | None = None,
) -> Refined:
    """Choose between the rays of a grid: ``refine(model, front, palora.knee, batches, loss_fn)``.

    Starts at ``choose(front)`` and tries what :func:`search` proposes, by evaluating the model there. The gradients of
    the losses with respect to the preference say where to try, unless the model has none.

    Args:
        front: what :func:`palora.sweep` measured of this model with these batches.
        choose: a front → one of its rays, such as ``lambda front: palora.select(front, {"left": 0.95}, "right")``.
        batches, loss_fn, metric_fn, rays_per_pass, forward, measures: as for the sweep; `batches` are gone through
            several times, so a list or a loader, not a generator.
        rounds: how often something is tried; the resolution doubles whenever nothing better is found.
    """

    def evaluate(rays: Tensor) -> Front:
        more: dict[str, Any] = {"forward": forward, "tasks": front.tasks, "note": front.note, "measures": measures}
        return sweep(model, batches, loss_fn, rays, metric_fn, rays_per_pass, **more)

    return search(front, choose, evaluate, lambda ray: sensitivity(model, batches, loss_fn, ray, forward), rounds)


def search(
    front: Front,
    choose: Choose,
    evaluate: Callable[[Tensor], Front],
    gradients: Callable[[Tensor], Tensor | None],
    rounds: int = ROUNDS,
) -> Refined:
    """A pattern search on the simplex that decides by evaluating alone.

    A round tries the rays around the best so far: weight moved from one task to another, for every pair, and steps down
    the gradients of the losses (see :func:`proposals`). The first step is half the distance to the next ray of the
    grid; it is halved whenever nothing better was found. The answer is ``choose`` of everything that was evaluated, so
    it is never worse than the grid's.

    Args:
        evaluate: rays (K, T) → their front, measured as `front` was.
        gradients: a ray (T,) → (T, T), entry (t, j) the derivative of loss t in λ_j; or None.
    """
    if front.rays.shape[1] < 2 or len(front) < 2:
        raise PaloraError("There is nothing to refine: the front is a single point.")
    best = _start(choose, front)
    apart = (front.rays - best).abs().amax(1)
    step = apart[apart > _TINY].min().item() / 2
    for _ in range(rounds):
        rays = proposals(best, gradients(best), step).to(front.rays)
        new = rays[torch.cdist(rays, front.rays, p=float("inf")).amin(1) > _TINY]
        if len(new):
            front = _joined(front, evaluate(new))
        found = _start(choose, front)
        if torch.equal(found, best):
            step /= 2
        best = found
    return Refined(choose(front), front)


def proposals(ray: Tensor, gradients: Tensor | None, step: float) -> Tensor:
    """(K, T) distinct points of the simplex whose largest weight changes by about `step` from `ray` (T,).

    * From every task to every other. For two tasks these are the only two directions.
    * With `gradients` (T, T): down the loss of each task, and down it along the level of each other task's, which is
      where a bound on the other still holds.
    """
    tasks = len(ray)
    eye = torch.eye(tasks, dtype=torch.float64)
    directions = [eye[i] - eye[j] for i in range(tasks) for j in range(tasks) if i != j]
    if gradients is not None and tasks > 2:
        within = gradients.double() - gradients.double().mean(1, keepdim=True)  # weights keep their sum
        directions += [-row for row in within]
        for t, row in enumerate(within):
            for other in (*within[:t], *within[t + 1 :]):
                directions.append(other * (row @ other) / (other @ other).clamp(min=1e-30) - row)
    moved = [ray.double() + step * d / d.abs().max() for d in directions if d.abs().max() > 1e-12]
    return torch.unique(torch.stack([on_simplex(point) for point in moved]), dim=0)


def _start(choose: Choose, front: Front) -> Tensor:
    """Where a bound is out of reach on the grid, it may be reached between: from the ray that misses it by least."""
    try:
        return choose(front)
    except UnreachableError as error:
        return error.nearest


def _joined(front: Front, more: Front) -> Front:
    metrics = {name: torch.cat([values, more.metrics[name]]) for name, values in front.metrics.items()}
    rays, losses = torch.cat([front.rays, more.rays]), torch.cat([front.losses, more.losses])
    return Front(rays, losses, metrics, front.tasks, front.note)
