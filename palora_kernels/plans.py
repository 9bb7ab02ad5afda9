"""Which algorithm serves which shape: the one table of this package.

A plan is named "<backend>.<algorithm>". The rules below compare what the algorithms cost; the constants were measured
on two CPU cores in float32. On a GPU the same arithmetic favours ``factored`` even more: a merged weight is traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_FORCED: dict[str, str] = {}

ALGORITHMS = {
    "linear": ("factored", "merged"),
    "linear_delta": ("merged", "basis"),
    "conv2d": ("merged", "basis", "factored", "direct", "tiled"),
    "conv2d_delta": ("merged", "basis", "direct", "tiled"),
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


def linear(rays: int, n: int, K: int, O: int, R: int, shared: bool, backend: str = "eager") -> str:
    """Factored by default. Merging pays where a ray has many rows and the adapters are a good part of the product."""
    if "linear" in _FORCED:
        return _FORCED["linear"]
    if shared:
        return "factored"  # one base product and one S for all rays: nothing to gain from M weights
    if backend == "native" and R < 48:
        return "factored"  # in passes that cost next to nothing beside the product
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


@dataclass(frozen=True)
class Conv:
    """What the plan of a convolution depends on."""

    backend: str
    rays: int
    n: int  # rows of one ray
    positions: int  # Ho*Wo
    K: int  # C/groups*kh*kw, the products behind one output value
    O: int
    R: int  # columns of all factors together; 0 for dense deltas
    elements: int  # T+1, or T without a common part
    groups: int
    shared: bool
    matricised: bool = False  # the deltas are low-rank as O x K matrices
    channels_last: bool = False  # the layout of the result
    item: int = 4  # bytes of a number

    def offers(self, algorithm: str) -> bool:
        if algorithm == "factored":
            return self.matricised and self.groups == 1
        if algorithm == "direct":
            return self.backend == "native" and self.shared and self.groups == 1
        if algorithm == "tiled":
            return self.backend == "native" and not self.shared and self.channels_last and self.item >= 4
        return True


def conv2d(call: Conv, op: str = "conv2d") -> str:
    if op in _FORCED:
        return _FORCED[op] if call.offers(_FORCED[op]) else "merged"
    if call.offers("direct") and call.K <= 32 and call.rays > 1 and call.channels_last:
        return "direct"
    if not call.shared:
        # A ray's weight is merged, reordered and pulled back for n*positions rows: too much where those are few.
        rows = call.n * call.positions
        little = rows * call.K * call.O < 4_000_000  # so little work a ray that calls are most of it
        if call.offers("factored") and call.rays > 1 and 4 * call.R <= call.O and (little or rows <= call.K):
            return "factored"
        if little and call.rays > 4 * call.elements:
            return "basis"
        return "tiled" if call.offers("tiled") else "merged"
    # Combining E maps into M costs a pass over M+E maps, about 40 multiply-adds a value.
    gain = (call.rays - call.elements) * call.K
    return "basis" if gain > 40 * (call.rays + call.elements) else "merged"
