"""Linear scalarisation: a plain model on the mean of the losses, the control a front is held against."""

from __future__ import annotations

from palora.methods.point import SinglePoint


class LinearScalarisation(SinglePoint):
    """Minimise Σ_t L_t / T with one ordinary model: one point, at the ray (1/T, …, 1/T)."""

    name = "ls"
    summary = "linear scalarisation: a plain model on the mean of the losses, one point"
    capturable = True
