"""The hypervolume indicator (Zitzler & Thiele, 1999)."""

from __future__ import annotations

from typing import Any

import numpy as np

from palora.evaluation.points import as_array, as_points
from palora.optional import need


def hypervolume(points: Any, reference: Any, maximise: bool = False) -> float:
    """The volume that `points` dominate, up to `reference`.

    Args:
        points: (points, objectives) tensor, array or nested sequence; any number of objectives.
        reference: one number for every objective, or (objectives,). It bounds the volume from above; with
            ``maximise=True`` from below, in the same units as the points: accuracies go with a reference of
            0.
        maximise: larger values are better, in every objective.

    A point that is not better than the reference in every objective contributes nothing, nor does a dominated
    or repeated one; the empty set has hypervolume 0.0. Raises ValueError for NaN, infinities and shapes that
    do not match, MissingPackageError without moocore.
    """
    costs, bound = as_points(points), as_array("reference", reference)
    if not len(costs):
        return 0.0
    objectives = costs.shape[1]
    if objectives == 0 or bound.ndim > 1 or (bound.ndim == 1 and bound.size != objectives):
        raise ValueError(
            f"`reference` should be one number or one for each of the {objectives} columns of `points`. "
            f"Found shape {bound.shape}."
        )
    bound = np.broadcast_to(bound, objectives)
    if maximise:
        costs, bound = -costs, -bound
    costs = costs[(costs < bound).all(axis=1)]
    if not len(costs):
        return 0.0
    moocore = need("moocore", "The hypervolume")
    # Left in, repeated and dominated points would not change the value, only the time it takes.
    costs = costs[moocore.is_nondominated(costs)]
    return float(moocore.hypervolume(costs, ref=bound))
