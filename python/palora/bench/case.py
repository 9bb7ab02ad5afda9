"""What a row of the table is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Run = Callable[[], object]


@dataclass
class Case:
    """One row: what is timed, and how the result is checked first.

    Attributes:
        ours: palora. authors: the loop over rays. floor: the plain model or product on the same rows.
        others: more columns, such as merging per ray.
        check: the largest error of ours against float64, relative to the largest value, for outputs and gradients.
        tolerance: what that error may be.
    """

    name: str
    ours: Run
    authors: Run
    floor: Run
    check: Callable[[], float]
    tolerance: float
    others: dict[str, Run] = field(default_factory=dict)

    def columns(self) -> dict[str, Run]:
        return {"ours": self.ours, "authors": self.authors, "floor": self.floor, **self.others}


Maker = Callable[[], Case]
Group = Iterator[tuple[str, Maker]]
"""(name, function that makes the case): cases are made one at a time, so that only one holds memory."""
