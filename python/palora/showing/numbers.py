"""Numbers as a page needs them: few digits, and JSON, which knows no NaN."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def rounded(values: Tensor, digits: int = 4) -> Any:
    """Nested lists of `values`, each with so many significant digits; None where not finite."""
    return _each(values.detach().double().cpu().tolist(), digits)


def shares(values: Tensor) -> Any:
    """Nested lists of probabilities, four decimals each; None where not finite."""
    return _shares(values.detach().double().cpu().tolist())


def _shares(value: Any) -> Any:
    if isinstance(value, list):
        return [_shares(item) for item in value]
    return round(value, 4) if math.isfinite(value) else None


def _each(value: Any, digits: int) -> Any:
    if isinstance(value, list):
        return [_each(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
