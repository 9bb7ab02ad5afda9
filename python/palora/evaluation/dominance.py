"""Which points are in the Pareto front."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palora.evaluation.points import as_points

_BLOCK = 256


def nondominated(points: Any, maximise: bool = False) -> Tensor:
    """Mask of the points that no other point dominates (Definition 1 of the paper).

    A point dominates another if it is nowhere worse and somewhere better. Equal points do not dominate each
    other, so every copy of a non-dominated point is marked.

    Args:
        points: (points, objectives) tensor, array or nested sequence.
        maximise: larger values are better, in every objective.

    Returns a bool tensor of shape (points,) on the CPU. Raises ValueError for NaN and infinities.
    """
    costs = as_points(points)
    if not costs.size:
        return torch.ones(len(costs), dtype=torch.bool)
    costs = -costs if maximise else costs
    return torch.from_numpy(_front(costs))


def _front(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows (points, objectives) are non-dominated, smaller being better.

    In lexicographic order only an earlier point can dominate a later one. Where a point is dominated, so it is by one
    of the front: each block is compared with the front so far, and with itself.
    """
    distinct, place = np.unique(costs, axis=0, return_inverse=True)  # sorted lexicographically
    marked = np.empty(len(distinct), dtype=bool)
    front = distinct[:0]
    for start in range(0, len(distinct), _BLOCK):
        block = distinct[start : start + _BLOCK]
        rivals = np.concatenate([front, block])
        nowhere_worse = (rivals[:, None] <= block).all(axis=2).sum(axis=0)
        alone = nowhere_worse == 1  # distinct points: itself, and nobody else
        marked[start : start + _BLOCK] = alone
        front = np.concatenate([front, block[alone]])
    return marked[place.reshape(-1)]  # one release of numpy gives `place` a second dimension
