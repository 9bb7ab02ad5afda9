"""Which points are in the Pareto front."""

from __future__ import annotations

from typing import Any

import moocore
import torch
from torch import Tensor

from palora.evaluation.points import as_points


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
    return torch.from_numpy(moocore.is_nondominated(costs, keep_weakly=True).astype(bool))
