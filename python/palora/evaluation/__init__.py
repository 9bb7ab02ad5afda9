"""Evaluation: sweep a model over rays, and what the resulting front is worth."""

from __future__ import annotations

from palora.evaluation.delta import compared, delta_m
from palora.evaluation.direction import is_accuracy, larger_is_better
from palora.evaluation.dominance import nondominated
from palora.evaluation.front import Front
from palora.evaluation.hypervolume import hypervolume
from palora.evaluation.measures import Measure
from palora.evaluation.monotonicity import monotonicity
from palora.evaluation.refining import Refined, refine
from palora.evaluation.selection import UnreachableError, epsilon, knee, nearest, select
from palora.evaluation.summary import summary
from palora.evaluation.sweep import sweep

__all__ = [
    "Front",
    "Measure",
    "Refined",
    "UnreachableError",
    "compared",
    "delta_m",
    "epsilon",
    "hypervolume",
    "is_accuracy",
    "knee",
    "larger_is_better",
    "monotonicity",
    "nearest",
    "nondominated",
    "refine",
    "select",
    "summary",
    "sweep",
]
