"""A picture of the table: for every row, how many times as long the others take as ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from palora.bench.table import Row
from palora.errors import PaloraError
from palora.optional import need

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".png", ".svg")
COLUMNS = {
    "authors": ("authors' loop", "#b2182b"),
    "compiled": ("authors' loop, torch.compile", "#f4a582"),
    "floor": ("plain product or model, same rows", "#4393c3"),
}


def check_path(path: Path) -> None:
    """Raises PaloraError for a format that is not drawn, MissingPackageError without matplotlib: before measuring for
    an hour, not after."""
    need("matplotlib", "`--figure`")
    if path.suffix.lower() not in FORMATS:
        raise PaloraError(f"`--figure` should end in {', '.join(FORMATS)}. Found {str(path)!r}.")


def ratio_figure(rows: Sequence[Row], path: Path, title: str) -> Figure:
    """Bars from 1 to the time of each column over ours, a group a row; to the right, ours is faster. Wrong rows,
    which have no times, are left out."""
    check_path(path)
    import matplotlib
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.times]
    with matplotlib.rc_context({"font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 1.2 + 0.36 * max(len(shown), 1)), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(COLUMNS)
        for index, (column, (label, colour)) in enumerate(COLUMNS.items()):
            there = [(i, row.ratio(column)) for i, row in enumerate(shown) if column in row.times]
            if there:
                places = [i + (index - 1) * height for i, _ in there]
                lengths = [ratio - 1 for _, ratio in there]
                axes.barh(places, lengths, height, left=1.0, color=colour, label=label)
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yticks(range(len(shown)), [f"{row.name}  ({row.group})" for row in shown])
        axes.invert_yaxis()
        axes.margins(y=0.01)
        axes.set_xlabel("time over ours (1: the same; right: ours is faster)")
        axes.set_title(title, loc="left")
        if shown:
            figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path)
    return figure
