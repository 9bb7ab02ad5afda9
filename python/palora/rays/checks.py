"""Argument checks shared by the grid and the schedules."""

from __future__ import annotations

import math
from numbers import Integral

from palora_kernels.typed import shown


def whole(name: str, value: object, least: int, remedy: str = "", most: int = 10**15) -> int:
    """`value` as an int, at least `least` and at most `most`; otherwise an error that names the argument."""
    expected = f"`{name}` should be an integer >= {least}. Found {shown(value)}.{remedy and ' ' + remedy}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(expected)
    if value < least:
        raise ValueError(expected)
    if int(value) > most:
        raise ValueError(f"`{name}` should be an integer <= {most:,}. Found {shown(value)}.")
    return int(value)


def number(name: str, value: object, low: float, high: float, what: str) -> float:
    """`value` as a finite float inside [low, high]; `what` is how the message describes that interval."""
    expected = f"`{name}` should be {what}. Found {shown(value)}."
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(expected)
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        raise TypeError(expected) from None
    except OverflowError:
        raise ValueError(expected) from None
    if not math.isfinite(result) or not low <= result <= high:
        raise ValueError(expected)
    return result
