"""`palora compare`: several runs in one table and one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from palora.report.comparison import Comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Evaluated run folders, of the same tasks.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".png, .pdf or .svg (else comparison.png beside the runs).")
    ] = None,
) -> None:
    """Compare runs of several methods and seeds: hypervolume, non-dominated rays, time, parameters, memory, fronts.

    Runs that differ by their seed alone are one line.
    """
    from palora.cli.console import say, table
    from palora.report import comparison

    found = comparison.compare(runs)
    head, lines = as_table(comparison.rows(found, comparison.numbers(found)))
    table(head, lines, right=range(1, len(head)))
    reference = ", ".join(f"{value:g}" for value in found.reference)
    say(f"\nHypervolume: of losses up to ({reference}), of accuracies from 0; mean ± deviation over seeds.")
    say("Common: rays that no ray of any run here dominates, on losses. Time: of the training steps.")
    for remark in found.remarks:
        say(remark)
    say(draw(found, out or beside(runs)))


def as_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and lines; columns that no run has a value for are left out."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "run": lambda row: row["label"],
        "seeds": lambda row: ", ".join(map(str, row["seeds"])),
        "hv losses": lambda row: mean(row["hypervolume_losses"], "{:.4f}"),
        "hv accuracies": lambda row: mean(row["hypervolume_accuracies"], "{:.4f}"),
        "nondominated": lambda row: ", ".join(map(str, row["nondominated"])) + f" of {row['rays']}",
        "common": lambda row: ", ".join(map(str, row["common"])),
        "time": lambda row: mean(row["train_seconds"], "{:.1f} s"),
        "parameters": lambda row: mean(row["parameters"][:1], "{:,.0f}"),
        "memory": lambda row: mean(gibibytes(row["peak_memory"]), "{:.2f} GiB"),
        "GPU memory": lambda row: mean(gibibytes(row["peak_device_memory"]), "{:.2f} GiB"),
    }
    cells = {name: [text(row) for row in rows] for name, text in columns.items()}
    used = [name for name in columns if any(cell != "-" for cell in cells[name])]
    return used, [list(line) for line in zip(*(cells[name] for name in used), strict=True)]


def mean(values: Sequence[float | None], text: str) -> str:
    """ "0.7504 ± 0.0031"."""
    from palora.report.comparison import mean_and_deviation

    middle, deviation = mean_and_deviation(values)
    if middle is None:
        return "-"
    return text.format(middle) + (f" ± {text.format(deviation)}" if deviation is not None else "")


def gibibytes(values: Sequence[int | None]) -> list[float | None]:
    return [None if value is None else value / 2**30 for value in values]


def draw(found: Comparison, path: Path) -> str:
    """Save the picture of all fronts, single points among them; returns the line that says where."""
    from palora.report.figures import front_figure

    fronts = {group.label: [run.front for run in group.runs] for group in found.groups}
    curves = {label: several for label, several in fronts.items() if len(several[0]) > 1}
    points = {label: several for label, several in fronts.items() if len(several[0]) == 1}
    if not curves:
        return "No picture: none of the runs holds a front."
    front_figure(curves, path, points=points)
    return f"{'picture':<20} {path}"


def beside(runs: Sequence[Path]) -> Path:
    from palora.report.page.writing import beside

    return beside(runs).with_name("comparison.png")
