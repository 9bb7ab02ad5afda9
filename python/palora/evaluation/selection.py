"""Choosing one preference of a front: by what it must achieve, by a wish, or where the trade-off bends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from palora.errors import PaloraError
from palora.evaluation.column import Column, Key, column
from palora.evaluation.front import Front
from palora.evaluation.naming import ray_text


class UnreachableError(PaloraError):
    """No ray of the front is good enough. `nearest` (T,): the ray that misses the bounds by least."""

    def __init__(self, message: str, nearest: Tensor) -> None:
        super().__init__(message)
        self.nearest = nearest


def select(
    front: Front,
    at_least: Mapping[Key, float] | None = None,
    best: Key | None = None,
    *,
    at_most: Mapping[Key, float] | None = None,
) -> Tensor:
    """The ray that is best on one task among those that are good enough on others.

    For example ``select(front, at_least={"left": 0.95}, best="right")``.

    A key is the name of a metric, or a task (name or index). A task stands for its metric, called after it as
    in "accuracy/left" (or, if no name says which is whose and there is one metric a task, the one in its
    place); in a front without metrics it stands for its loss.

    Args:
        at_least: lower bounds, inclusive.
        best: what to optimise, in the direction that is good for it. Required.
        at_most: upper bounds, inclusive: for losses and errors.

    Returns a ray of the front, shape (T,), for :func:`palora.at` or :func:`palora.merge`. Of equally good
    rays it is the one with the smallest sum of losses. Raises UnreachableError, a PaloraError, if no ray is good
    enough: it says which is nearest. Raises PaloraError for an unknown key.
    """
    if best is None:
        raise ValueError("`best` should name the task or metric to optimise. Found None.")
    bounds = [(key, bound, True) for key, bound in (at_least or {}).items()]
    bounds += [(key, bound, False) for key, bound in (at_most or {}).items()]
    missed = torch.zeros(len(front), dtype=torch.float64)  # by how much of each column's spread, summed
    named, words = [], []
    for key, bound, lower in bounds:
        found = column(front, key)
        if found.larger != lower:
            other = "at_least" if found.larger else "at_most"
            good = "larger" if found.larger else "smaller"
            raise ValueError(f"{found.name} is better the {good} it is: bound it by `{other}`.")
        missed += _missed(found, _finite(key, bound))
        named.append(found)
        at = "at least" if lower else "at most"
        words.append(f"{found.name} {at} {bound:g} (the best ray has {found.values[_first(found.costs, front)]:.4g})")
    if (missed > 0).all():
        near = _first(missed, front)
        values = " and ".join(f"{found.name} {found.values[near]:.4g}" for found in named)
        raise UnreachableError(
            f"No ray of the front has {' and '.join(words)}: the nearest is {ray_text(front.rays[near])} with "
            f"{values}; relax a bound.",
            front.rays[near].clone(),
        )
    costs = column(front, best).costs.where(missed == 0, math.inf)
    return front.rays[_first(costs, front)].clone()


def epsilon(front: Front, bounds: Mapping[Key, float], best: Key | None = None) -> Tensor:
    """The ε-constraint method (Haimes et al., 1971): one objective optimised, each of the others bounded by its ε.

    Args:
        bounds: key → ε, for all tasks but one: a lower bound where larger is better, otherwise an upper one.
        best: what to optimise; None: the task that has no bound.

    Returns and raises what :func:`select` does; PaloraError if `best` is None and not one task alone is left.
    """
    found = {key: column(front, key) for key in bounds}
    if best is None:
        bounded = {c.name for c in found.values()}
        free = [task for task in front.tasks if not bounded & _own(front, task)]
        if len(free) != 1:
            raise PaloraError(
                f"`best` should name what to optimise where not one task alone is without a bound; without are "
                f"{', '.join(free) or 'none'}."
            )
        best = free[0]
    lower = {key: bound for key, bound in bounds.items() if found[key].larger}
    upper = {key: bound for key, bound in bounds.items() if not found[key].larger}
    return select(front, lower, best, at_most=upper)


def nearest(front: Front, wish: Mapping[Key, float]) -> Tensor:
    """The ray whose metrics come nearest to a wish, as in ``nearest(front, {"left": 0.96, "right": 0.94})``.

    Nearest in Euclidean distance, each column divided by its spread over the front, so that units do not matter; what
    exceeds the wish counts as far as what misses it. Keys as in :func:`select`. Returns a ray of the front, (T,); of
    equally near rays the one with the smallest sum of losses. Raises PaloraError for an unknown key, ValueError for an
    empty wish.
    """
    if not wish:
        raise ValueError("`wish` should name at least one task or metric and its value. Found none.")
    distance = torch.zeros(len(front), dtype=torch.float64)
    for key, value in wish.items():
        found = column(front, key)
        distance += ((found.values.double() - _finite(key, value)) / found.spread).square()
    return front.rays[_first(distance.nan_to_num(nan=math.inf), front)].clone()


def knee(front: Front) -> Tensor:
    """The ray where the front bends most: further towards less of one loss costs much of another.

    Among the non-dominated rays each loss is scaled to run from 0 (best) to 1 (worst). The knee is the ray
    farthest below the hyperplane through the corners (1, 0, …), …, (0, …, 1), that is, the one with the
    smallest sum of scaled losses. For two tasks that plane is the line through the two ends of the front. A
    loss that is the same everywhere counts as 0; of equally good rays the first is taken.

    Returns a ray of the front, shape (T,).
    """
    if not len(front):
        raise ValueError("`front` should have at least one ray. Found none.")
    where = front.nondominated().nonzero().flatten()
    losses = front.losses[where].double()
    least, most = losses.amin(0), losses.amax(0)
    scaled = (losses - least) / torch.where(most > least, most - least, 1)
    return front.rays[where[scaled.sum(1).argmin()]].clone()


def position(front: Front, ray: Any, tolerance: float = 1e-5) -> int:
    """Where `ray` (T,) stands in the front. Raises PaloraError that names the nearest ray if it is not on it."""
    wanted = torch.as_tensor(ray, dtype=front.rays.dtype)
    tasks = front.rays.shape[1]
    if wanted.shape != (tasks,):
        raise PaloraError(f"A preference should have {tasks} weights, one a task. Found {ray_text(wanted.flatten())}.")
    apart = (front.rays - wanted).abs().amax(1)
    index = int(apart.argmin())
    if not apart[index] <= tolerance:
        raise PaloraError(
            f"The preference {ray_text(wanted)} is not on the grid of this front: the nearest that was evaluated is "
            f"{ray_text(front.rays[index])}."
        )
    return index


def _missed(found: Column, bound: float) -> Tensor:
    """(M,) float64: how far a column stays behind its bound, in its spread; 0 where it does not."""
    limit = torch.tensor(bound, dtype=found.values.dtype)  # 0.95 as the values hold it
    behind = limit - found.values if found.larger else found.values - limit
    return (behind.double() / found.spread).clamp(min=0).nan_to_num(nan=math.inf)


def _finite(key: Key, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"The value for {key!r} should be a finite number. Found {value}.")
    return float(value)


def _first(costs: Tensor, front: Front) -> Tensor:
    """The ray of least cost; of several the one with the smallest sum of losses."""
    if not len(front):
        raise ValueError("`front` should have at least one ray. Found none.")
    if not costs.min() < math.inf:
        raise PaloraError("The front has no ray with a value of everything that is asked for.")
    candidates = (costs == costs.min()).nonzero().flatten()
    return candidates[front.losses[candidates].sum(1).argmin()]


def _own(front: Front, task: str) -> set[str]:
    """The names under which something of `task` can be bounded."""
    try:
        return {column(front, task).name}
    except PaloraError:  # it has several metrics, of which one may be bounded
        return {name for name in front.metrics if task in (name.partition("/")[2], name.rpartition("/")[0])}
