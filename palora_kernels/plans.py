"""Which algorithm serves which shape: the one table of this package.

A plan is named "<backend>.<algorithm>". The rules below compare what the algorithms cost; the constants were measured
on two CPU cores in float32. On a GPU the same arithmetic favours ``factored`` even more: a merged weight is traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_FORCED: dict[str, str] = {}

ALGORITHMS = {
    "linear": ("factored", "merged"),
    "linear_delta": ("merged", "basis"),
    "conv2d": ("merged", "basis", "factored"),
    "conv2d_delta": ("merged", "basis"),
}


@contextmanager
def force(**algorithms: str) -> Iterator[None]:
    """Override the table inside a with block, for tests and measurements: ``force(linear="merged")``.

    Raises ValueError for an op or algorithm that does not exist. Process-wide; not meant for serving.
    """
    for op, algorithm in algorithms.items():
        if algorithm not in ALGORITHMS.get(op, ()):
            known = "; ".join(f"{name}: {', '.join(plans)}" for name, plans in ALGORITHMS.items())
            raise ValueError(f"No algorithm {algorithm!r} for op {op!r}. Known are {known}.")
    before = dict(_FORCED)
    _FORCED.update(algorithms)
    try:
        yield
    finally:
        _FORCED.clear()
        _FORCED.update(before)


def linear(rays: int, n: int, K: int, O: int, R: int, shared: bool) -> str:
    """Factored by default. Merging pays where a ray has many rows and the adapters are a good part of the product."""
    if "linear" in _FORCED:
        return _FORCED["linear"]
    if shared:
        return "factored"  # one base product and one S for all rays: nothing to gain from M weights
    if n * (K + O) > 2 * K * O and R * (K + O) > 0.15 * K * O:
        return "merged"
    return "factored"


def linear_delta(rays: int, n: int, elements: int, shared: bool) -> str:
    """``elements``: T+1, or T without a common part; the basis plan costs that many products of the rows it sees."""
    if "linear_delta" in _FORCED:
        return _FORCED["linear_delta"]
    if shared:
        return "basis" if elements < rays else "merged"
    # Merging reads every delta once per ray, about what 16 rows of the extra products cost.
    return "basis" if n <= 16 and rays > 1 else "merged"


def conv2d(rays: int, n: int, K: int, elements: int, matricised: bool, groups: int, shared: bool) -> str:
    """``K`` = C/groups*kh*kw, the products behind one output value; n: rows of one ray."""
    if "conv2d" in _FORCED:
        chosen = _FORCED["conv2d"]
        return chosen if chosen != "factored" or (matricised and groups == 1) else "merged"
    if matricised and groups == 1 and not shared and n <= 2 and rays > 4:
        return "factored"
    return _merged_or_basis(rays, n, K, elements, shared)


def conv2d_delta(rays: int, n: int, K: int, elements: int, shared: bool) -> str:
    if "conv2d_delta" in _FORCED:
        return _FORCED["conv2d_delta"]
    return _merged_or_basis(rays, n, K, elements, shared)


def _merged_or_basis(rays: int, n: int, K: int, elements: int, shared: bool) -> str:
    if not shared:
        # A call per ray on one or two images leaves most cores idle; T+1 calls on all rows do not.
        return "basis" if n <= 2 and rays > 4 * elements else "merged"
    # Combining E maps into M costs a pass over M+E maps, about 40 multiply-adds a value.
    return "basis" if (rays - elements) * K > 40 * (rays + elements) else "merged"
