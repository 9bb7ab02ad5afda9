"""What a key names in a front: a task, by name or index, or one of the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from palora.errors import PaloraError
from palora.evaluation.direction import larger_is_better, metrics_of_task
from palora.evaluation.front import Front
from palora.suggest import unknown

Key = str | int


@dataclass(frozen=True)
class Column:
    """One value a ray: a metric, or the loss of a task in a front without metrics."""

    name: str
    values: Tensor
    """(M,)."""
    larger: bool
    """Whether larger values are better."""

    @property
    def costs(self) -> Tensor:
        """(M,) float64, smaller is better; infinite where there is no value (NaN)."""
        return (-self.values if self.larger else self.values).double().nan_to_num(nan=float("inf"), posinf=float("inf"))

    @property
    def spread(self) -> float:
        """How far the finite values lie apart, to compare columns of different units; 1 where they are all the same."""
        finite = self.values[self.values.isfinite()].double()
        spread = (finite.max() - finite.min()).item() if len(finite) else 0.0
        return spread or 1.0


def column(front: Front, key: Key) -> Column:
    """The column that `key` names.

    A task stands for its metric, called after it as in "accuracy/left" (or, if no name says which is whose and there is
    one metric a task, the one in its place); in a front without metrics it stands for its loss. Raises PaloraError for
    an unknown key, and for a task of several metrics.
    """
    if isinstance(key, str) and key in front.metrics:
        return Column(key, front.metrics[key], larger_is_better(key))
    task = _task(front, key)
    names = list(front.metrics)
    own = metrics_of_task(front.tasks[task], names)
    unnamed = not any(metrics_of_task(name, names) for name in front.tasks)
    if not own and unnamed and len(names) == len(front.tasks):
        own = [names[task]]
    if len(own) == 1:
        return Column(own[0], front.metrics[own[0]], larger_is_better(own[0]))
    if names:
        raise PaloraError(f"Task '{front.tasks[task]}' has {len(own)} metrics: name one of {', '.join(own or names)}.")
    return Column(f"loss of {front.tasks[task]}", front.losses[:, task], False)


def _task(front: Front, key: Key) -> int:
    if isinstance(key, str):
        if key not in front.tasks:
            raise PaloraError(unknown("task or metric", key, [*front.tasks, *front.metrics]))
        return front.tasks.index(key)
    if not 0 <= key < len(front.tasks):
        last = len(front.tasks) - 1
        raise PaloraError(f"A task should be a name or an index from 0 to {last}. Found {key!r}.")
    return key
