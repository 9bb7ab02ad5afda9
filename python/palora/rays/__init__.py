"""Preference rays: grids on the simplex and the schedules that choose the rays of every training step."""

from __future__ import annotations

from palora.rays import schedules
from palora.rays.grid import fixed_rays, interior_grid, sarcos_grid, simplex_grid

__all__ = ["fixed_rays", "interior_grid", "sarcos_grid", "schedules", "simplex_grid"]
