"""Measure rows, show them, store them as JSON, compare two such files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from palora.bench.case import Case, Maker
from palora.bench.memory import peak_bytes
from palora.bench.plan import plans_of
from palora.bench.timing import Times, measure
from palora.errors import PaloraError
from palora.files import write_file
from palora.reading import read_record
from palora_kernels.typed import AnyNumber

FORMAT = 1


class _File(TypedDict):
    format: Literal[1]
    header: dict[str, Any]
    rows: list[Row]


@dataclass
class Row:
    """A measured row. Ratios are of minima: > 1 means ours is faster."""

    group: str
    name: str
    plan: str
    error: AnyNumber
    tolerance: AnyNumber
    times: dict[str, Times] = field(default_factory=dict)
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)  # on a GPU: of the measured bandwidth and matmul rate
    notes: dict[str, str] = field(default_factory=dict)  # by column: what was not measured as it should be

    @property
    def correct(self) -> bool:
        return self.error <= self.tolerance and math.isfinite(self.error)

    def ratio(self, column: str) -> float:
        """Time of a column over ours."""
        return self.times[column].minimum / self.times["ours"].minimum


def measured(group: str, make: Maker, budget: float, device: torch.device) -> Row:
    """Check the case, and time it only if the check passes."""
    case: Case = make()
    row = Row(group, case.name, plans_of(case.ours) or "torch", case.check(), case.tolerance)
    if row.correct:
        columns = case.columns()
        row.times = measure(columns, budget)
        row.peak_bytes = {name: peak_bytes(run, device) for name, run in columns.items()}
    return row


def cells(row: Row) -> list[str]:
    """The cells of a row as text; no number where the check failed."""
    if not row.correct:
        return [row.name, row.plan, f"WRONG: error {row.error:.1e} > {row.tolerance:.1e}", "", "", "", ""]
    ours = row.times["ours"]
    versus = [f"{row.ratio('authors'):.2f}×"]
    versus += [f"{row.ratio('merging'):.2f}×" if "merging" in row.times else ""]
    floor = f"{1 / row.ratio('floor'):.2f}"
    peaks = [row.peak_bytes.get(name) for name in ("ours", "authors", "floor")]
    memory = " / ".join("?" if p is None else f"{p / 2**20:.0f}" for p in peaks)
    return [row.name, row.plan, f"{ours.minimum * 1e3:.2f} ({ours.median * 1e3:.2f})", *versus, floor, memory]


HEADINGS = [
    "",
    "plan",
    "ours ms: min (median)",
    "vs authors",
    "vs merging",
    "ours / floor",
    "peak MiB: ours / authors / floor",
]


def save(path: Path, header: dict[str, Any], rows: Iterable[Row]) -> None:
    content = {"format": FORMAT, "header": header, "rows": [asdict(row) for row in rows]}
    write_file(path, json.dumps(content, indent=1) + "\n")


def load(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """Raises PaloraError for a missing or damaged file."""
    content = read_record(path, _File, "The table", "palora bench --json writes one", nan=True)
    rows: list[Row] = content["rows"]
    for row in rows:
        if row.correct and not {"ours", "floor"} <= set(row.times):
            raise PaloraError(f"The table {path} is damaged: {row.name} has no times of ours and the floor.")
    return content["header"], rows


def compare(old: Path, new: Path) -> list[list[str]]:
    """Rows of both files: how much faster the new one is, ours and the floor (the change of the machine itself)."""
    before = {(row.group, row.name): row for row in load(old)[1]}
    lines = []
    for row in load(new)[1]:
        other = before.get((row.group, row.name))
        if other is None or not (row.correct and other.correct):
            continue
        change = {c: other.times[c].minimum / row.times[c].minimum for c in ("ours", "floor")}
        relative = change["ours"] / change["floor"]
        lines.append([row.name, f"{change['ours']:.2f}×", f"{change['floor']:.2f}×", f"{relative:.2f}×"])
    return lines
