"""Δm: how much a multi-task model loses against single-task models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from palora.evaluation.direction import larger_is_better
from palora.rays.checks import number

AGAIN = "(batch mean)"
"""Ends the name of a metric that is another one once more, averaged in another way."""


def compared(names: Iterable[str]) -> list[str]:
    """Those of the metrics `names` that enter Δm: all but what is measured twice, and losses ("loss/…")."""
    return [name for name in names if AGAIN not in name and not name.startswith("loss/")]


def delta_m(metrics: Mapping[str, float], single: Mapping[str, float]) -> float:
    """The mean relative loss of performance against single-task runs, in per cent: below 0 is a gain.

    Δm = 100/K · Σ_k (−1)^{l_k} (M_k − S_k) / S_k, where M_k is metric k of the multi-task model, S_k that of
    the single-task model of its task, and l_k = 1 if larger values of metric k are better (told by its name,
    see :mod:`palora.evaluation.direction`).

    Args:
        metrics: name → value, of the model that is judged.
        single: name → value, each from the run that trained its task alone; every name of `metrics`.

    Raises ValueError for no metrics, a name without its single-task value, one that is 0 or next to it, and for what is
    no finite number.
    """
    if not metrics:
        raise ValueError("`metrics` should hold at least one metric. Found none.")
    missing = [name for name in metrics if name not in single]
    if missing:
        raise ValueError(f"`single` should have a value for every metric. Missing: {', '.join(missing)}.")
    total = 0.0
    for name in metrics:
        value = number(f"metrics[{name!r}]", metrics[name], -math.inf, math.inf, "a finite number")
        alone = number(f"single[{name!r}]", single[name], -math.inf, math.inf, "a finite number")
        change = (value - alone) / alone if alone else math.inf
        if not math.isfinite(change):
            raise ValueError(f"`single[{name!r}]` should not be 0: nothing is relative to it. Found {alone!r}.")
        total += -change if larger_is_better(name) else change
    return 100 * total / len(metrics)
