"""Pareto low-rank adapters: one model that holds a whole Pareto front."""

from __future__ import annotations

__version__ = "0.1.0"
