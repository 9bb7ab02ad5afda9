"""Choosing one preference of a front: by what it must achieve, or where the trade-off bends."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from palora.errors import PaloraError
from palora.evaluation.direction import larger_is_better, metrics_of_task
from palora.evaluation.front import Front
from palora.suggest import unknown

Key = str | int


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
    rays it is the one with the smallest sum of losses. Raises PaloraError if no ray is good enough or a key
    is unknown.
    """
    if best is None:
        raise ValueError("`best` should name the task or metric to optimise. Found None.")
    good_enough = torch.ones(len(front), dtype=torch.bool)
    reached = []
    for bounds, sign, words in ((at_least or {}, 1, "at least"), (at_most or {}, -1, "at most")):
        for key, bound in bounds.items():
            name, values, larger = _values(front, key)
            if larger != (sign > 0):
                other = "at_least" if larger else "at_most"
                good = "larger" if larger else "smaller"
                raise ValueError(f"{name} is better the {good} it is: bound it by `{other}`.")
            good_enough &= sign * values >= sign * bound
            extreme = sign * (sign * values).max().item()
            reached.append(f"{name} {words} {bound:g} (the best ray has {extreme:.4g})")
    if not good_enough.any():
        raise PaloraError(f"No ray of the front has {' and '.join(reached)}: relax a bound.")
    _, values, larger = _values(front, best)
    score = values if larger else -values
    candidates = (good_enough & (score == score[good_enough].max())).nonzero().flatten()
    return front.rays[candidates[front.losses[candidates].sum(1).argmin()]].clone()


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


def _values(front: Front, key: Key) -> tuple[str, Tensor, bool]:
    """What `key` stands for: a description, (M,) values, and whether larger ones are better."""
    if isinstance(key, str) and key in front.metrics:
        return key, front.metrics[key], larger_is_better(key)
    task = _task(front, key)
    names = list(front.metrics)
    own = metrics_of_task(front.tasks[task], names)
    unnamed = not any(metrics_of_task(name, names) for name in front.tasks)
    if not own and unnamed and len(names) == len(front.tasks):
        own = [names[task]]
    if len(own) == 1:
        return own[0], front.metrics[own[0]], larger_is_better(own[0])
    if names:
        raise PaloraError(f"Task '{front.tasks[task]}' has {len(own)} metrics: name one of {', '.join(own or names)}.")
    return f"loss of {front.tasks[task]}", front.losses[:, task], False


def _task(front: Front, key: Key) -> int:
    if isinstance(key, str):
        if key not in front.tasks:
            raise PaloraError(unknown("task or metric", key, [*front.tasks, *front.metrics]))
        return front.tasks.index(key)
    if not 0 <= key < len(front.tasks):
        last = len(front.tasks) - 1
        raise PaloraError(f"A task should be a name or an index from 0 to {last}. Found {key!r}.")
    return key
