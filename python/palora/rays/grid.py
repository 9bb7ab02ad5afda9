"""Regular grids of preferences on the simplex."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import torch
from torch import Tensor

from palora.rays.checks import whole

MOST = 1_000_000  # rays of a grid
MOST_TASKS = 256


def lattice(tasks: int, divisions: int) -> Iterator[tuple[int, ...]]:
    """All `tasks`-tuples of non-negative integers that sum to `divisions`, first coordinate descending."""
    if tasks == 1:
        yield (divisions,)
        return
    for first in range(divisions, -1, -1):
        for rest in lattice(tasks - 1, divisions - first):
            yield (first, *rest)


def grid_size(tasks: int, divisions: int) -> int:
    """How many rays :func:`simplex_grid` has."""
    return comb(divisions + tasks - 1, tasks - 1)


def _require_few(tasks: int, divisions: int, rays: int) -> None:
    if rays > MOST:
        raise ValueError(
            f"`divisions` should be smaller: {divisions:,} for {tasks} tasks make more than {MOST:,} rays. A grid of "
            "10 is usual."
        )


def simplex_grid(tasks: int, divisions: int) -> Tensor:
    """The regular (Das–Dennis) grid: every preference whose entries are multiples of 1/divisions.

    Returns a float32 tensor of shape (C(divisions + tasks − 1, tasks − 1), tasks); each row sums to 1. Rows
    are in lexicographic order with the first coordinate descending: for two tasks from (1, 0) to (0, 1).
    ``simplex_grid(2, 10)`` holds the 11 rays of the paper's two-task evaluation, ``simplex_grid(3, 10)`` the
    66 of its three-task evaluation.

    Raises ValueError or TypeError unless `tasks` and `divisions` are integers >= 1, and ValueError for more than a
    million rays.
    """
    tasks, divisions = whole("tasks", tasks, 1, most=MOST_TASKS), whole("divisions", divisions, 1)
    _require_few(tasks, divisions, grid_size(tasks, divisions))
    counts = torch.tensor(list(lattice(tasks, divisions)), dtype=torch.float64)
    return (counts / divisions).float()


def interior_grid(tasks: int, divisions: int) -> Tensor:
    """The rows of :func:`simplex_grid` that give every task some weight, in the same order.

    Returns a float32 tensor of shape (C(divisions − 1, tasks − 1), tasks). Raises ValueError if `divisions`
    is smaller than `tasks`, because then no such row exists.
    """
    tasks = whole("tasks", tasks, 1, most=MOST_TASKS)
    divisions = whole("divisions", divisions, tasks, "A coarser grid has no interior point.")
    _require_few(tasks, divisions, comb(divisions - 1, tasks - 1))
    if divisions == tasks:
        return torch.full((1, tasks), 1 / tasks)
    counts = torch.tensor(list(lattice(tasks, divisions - tasks)), dtype=torch.float64) + 1
    return (counts / divisions).float()


def sarcos_grid() -> Tensor:
    """The 100 rays on which the literature evaluates the seven tasks of SARCOS, as a (100, 7) tensor.

    Of the 210 interior points of the grid with 11 divisions, in ascending lexicographic order, the first and
    the last five are left out and every second one of the rest is kept.
    """
    return interior_grid(7, 11).flip(0)[5:-5:2].contiguous()


def fixed_rays(tasks: int) -> Tensor:
    """Each vertex and then the centre, shape (tasks + 1, tasks): what a user gets without a search."""
    tasks = whole("tasks", tasks, 1, most=65_536)
    return torch.cat([torch.eye(tasks), torch.full((1, tasks), 1 / tasks)])
