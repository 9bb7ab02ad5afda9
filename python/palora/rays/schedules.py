"""The preference schedules by their public names; also importable as `palora.schedules`."""

from __future__ import annotations

from palora.rays.deterministic import Annealed, Fixed
from palora.rays.random import AnnealedDirichlet, Dirichlet
from palora.rays.schedule import Schedule

__all__ = ["Annealed", "AnnealedDirichlet", "Dirichlet", "Fixed", "Schedule"]
