"""Argument checks shared by the grid and the schedules."""

from __future__ import annotations

import math
from numbers import Integral


def whole(name: str, value: object, least: int, remedy: str = "") -> int:
    """`value` as an int, at least `least`; otherwise an error that names the argument."""
    expected = f"`{name}` should be an integer >= {least}. Found {value!r}.{remedy and ' ' + remedy}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(expected)
    if value < least:
        raise ValueError(expected)
    return int(value)


def number(name: str, value: object, low: float, high: float, what: str) -> float:
    """`value` as a finite float inside [low, high]; `what` is how the message describes that interval."""
    expected = f"`{name}` should be {what}. Found {value!r}."
    if isinstance(value, (str, bytes)):
        raise TypeError(expected)
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(expected) from None
    if not math.isfinite(result) or not low <= result <= high:
        raise ValueError(expected)
    return result
