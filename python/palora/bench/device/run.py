"""`palora bench --device cuda`: correctness of every kernel first, then times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from palora.bench.device import coverage
from palora.bench.device.clock import Clock, first_line
from palora.bench.device.rates import Rates, short
from palora.bench.device.rows import Entry, Maker
from palora.bench.plan import plans_of
from palora.bench.table import Row
from palora.errors import PaloraError

HEADINGS = [
    "",
    "plan",
    "ours µs: min (median)",
    "vs authors",
    "vs compiled",
    "ours / floor",
    "% bandwidth",
    "% matmul",
    "peak MiB: ours / authors / floor",
    "",
]


def require_gpu() -> None:
    """Raises PaloraError that says what is missing for a measurement on a GPU."""
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None and torch.version.hip is None:
        missing = f"this PyTorch ({torch.__version__}) is built for CPUs only; install a build for CUDA or ROCm"
    else:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
        missing = (
            f"PyTorch is built for {built} but finds no device; nvidia-smi (rocm-smi) shows whether the driver does"
        )
    raise PaloraError(f"A measurement on a GPU cannot run here: {missing}. `palora bench --device cpu` runs anywhere.")


def backends(device: torch.device) -> tuple[list[str], dict[str, str]]:
    """The backends whose kernels run on a GPU, and why the others do not."""
    from palora_kernels.native import loading
    from palora_kernels.triton.launching import availability

    absent = {}
    if (reason := availability.status()) != availability.AVAILABLE:
        absent["triton"] = reason
    if not loading.ready(device.type):
        absent["native"] = loading.status(device.type)
    return [name for name in ("triton", "native") if name not in absent], absent


@dataclass
class Checked:
    """How many calls were compared, and those that were wrong."""

    count: int
    wrong: list[coverage.Finding]


def check(findings: Iterable[coverage.Finding], progress: Callable[[int], None] = lambda count: None) -> Checked:
    count, wrong = 0, []
    for count, finding in enumerate(findings, 1):
        if not finding.correct:
            wrong.append(finding)
        progress(count)
    return Checked(count, wrong)


def rows(
    makers: Iterable[tuple[str, Maker]], clock: Clock, rates: Rates, dtype: torch.dtype, seconds: float
) -> Iterator[Row]:
    """Measured rows; one whose check fails has no times."""
    for _, make in makers:
        for entry in make():
            yield measured(entry, clock, rates, dtype, seconds)


def measured(entry: Entry, clock: Clock, rates: Rates, dtype: torch.dtype, seconds: float) -> Row:
    error, tolerance = entry.check()
    row = Row(f"{entry.group}, {short(dtype)}", entry.name, plans_of(entry.ours), error, tolerance)
    if not row.correct:
        return row
    columns = dict(entry.columns)
    try:
        columns["compiled"]()()
    except Exception as failure:  # of many kinds: a compiler that is missing, or that cannot do this
        row.notes["compiled"] = f"torch.compile failed: {first_line(failure)}"
        del columns["compiled"]
    row.times, notes = clock.measure(columns, seconds)
    row.notes.update(notes)
    row.peak_bytes = {name: clock.peak(prepare) for name, prepare in columns.items()}
    bandwidth, products = rates.shares(entry.least, dtype, row.times["ours"].minimum)
    row.shares = {"bandwidth": bandwidth, "products": products}
    return row


def cells(row: Row) -> list[str]:
    """The cells of a row as text; no number where the check failed."""
    if not row.correct:
        return [row.name, row.plan, f"WRONG: error {row.error:.1e} > {row.tolerance:.1e}", *[""] * (len(HEADINGS) - 3)]
    ours = row.times["ours"]
    peaks = [row.peak_bytes.get(name) for name in ("ours", "authors", "floor")]
    return [
        row.name,
        row.plan,
        f"{ours.minimum * 1e6:.1f} ({ours.median * 1e6:.1f})",
        f"{row.ratio('authors'):.2f}×",
        f"{row.ratio('compiled'):.2f}×" if "compiled" in row.times else "",
        f"{1 / row.ratio('floor'):.2f}",
        f"{100 * row.shares['bandwidth']:.0f}",
        f"{100 * row.shares['products']:.0f}",
        " / ".join("?" if p is None else f"{p / 2**20:.1f}" for p in peaks),
        "; ".join(f"{column} {note}" for column, note in row.notes.items()),
    ]
