"""Preference schedules: which rays are trained at which point of training. See :mod:`palora.rays`."""

from __future__ import annotations

from palora.rays.schedules import Annealed, AnnealedDirichlet, Dirichlet, Fixed, Schedule

__all__ = ["Annealed", "AnnealedDirichlet", "Dirichlet", "Fixed", "Schedule"]
