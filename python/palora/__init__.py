"""Pareto low-rank adapters: one model that holds a whole Pareto front.

    palora.adapt(model, tasks=2, rank=4)          # every Linear and Conv2d gets T low-rank adapters
    with palora.at(model, rays):                  # (M, T) preferences: M models in one pass
        outputs = palora.split(model(x), len(rays))
    plain = palora.merge(model, (0.3, 0.7))       # one preference as a plain module

Names are imported when first used, so that the command line starts quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from palora._version import __version__

_HOME = {
    "PaLoRAConv2d": "palora.layers",
    "PaLoRALinear": "palora.layers",
    "ReducedOutputWarning": "palora.layers",
    "RowsError": "palora.layers",
    "UnsupportedModuleError": "palora.layers",
    "UnusedAdapterWarning": "palora.layers",
    "adapt": "palora.layers",
    "at": "palora.layers",
    "check": "palora.layers",
    "load_adapters": "palora.layers",
    "merge": "palora.layers",
    "rays_of": "palora.layers",
    "rows": "palora.layers",
    "save_adapters": "palora.layers",
    "split": "palora.layers",
    "summary": "palora.layers",
    "simplex_grid": "palora.rays",
    "Front": "palora.evaluation",
    "hypervolume": "palora.evaluation",
    "knee": "palora.evaluation",
    "monotonicity": "palora.evaluation",
    "nondominated": "palora.evaluation",
    "select": "palora.evaluation",
    "sweep": "palora.evaluation",
    "PaloraError": "palora.errors",
}
_MODULES = ("data", "engine", "evaluation", "layers", "methods", "models", "rays", "recipes", "report", "schedules")

__all__ = ["__version__", *_HOME, *_MODULES]

if TYPE_CHECKING:
    from palora import data, engine, evaluation, layers, methods, models, rays, recipes, report, schedules
    from palora.errors import PaloraError
    from palora.evaluation import (
        Front,
        hypervolume,
        knee,
        monotonicity,
        nondominated,
        select,
        sweep,
    )
    from palora.layers import (
        PaLoRAConv2d,
        PaLoRALinear,
        ReducedOutputWarning,
        RowsError,
        UnsupportedModuleError,
        UnusedAdapterWarning,
        adapt,
        at,
        check,
        load_adapters,
        merge,
        rays_of,
        rows,
        save_adapters,
        split,
        summary,
    )
    from palora.rays import simplex_grid


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"palora.{name}")
    else:
        raise AttributeError(f"module 'palora' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
