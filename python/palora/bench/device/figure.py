"""Pictures of tables: for every row, how many times as long the others take as ours; and `make gpu-check`'s results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palora.bench.device import goals
from palora.bench.device.items import OPS
from palora.bench.device.timing import OFF
from palora.bench.table import Row
from palora.errors import PaloraError
from palora.files import replacing
from palora.optional import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        with replacing(path) as new:
            figure.savefig(new)
    return figure


# Column: label, colour, marker. What is ours is drawn last, over the others.
SERIES = {
    "authors": ("loop over rays", "#b2182b", "s"),
    "compiled": ("loop over rays, torch.compile", "#f4a582", "D"),
    "eager": ("plain PyTorch, few passes", "#4393c3", "^"),
    "ours": ("ours", "black", "o"),
}


def check_figure(content: Mapping[str, Any], path: Path) -> Figure | None:
    """Draw a file of results of `make gpu-check`: ops forward + backward over the library's own product of the same
    rows, and training steps over the plain model's. None, and nothing written, where nothing was timed.

    Raises PaloraError for a format that is not drawn, MissingPackageError without matplotlib.
    """
    rows = [row for row in goals.table(content) if _base(row) and "ours" in row["graph"]]
    parts = [[r for r in rows if r["part"] == goals.BOTH], [r for r in rows if r["part"] == "step"]]
    parts = [sorted(part, key=_place) for part in parts if part]
    if not parts:
        return None
    check_path(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 8, "svg.fonttype": "none"}):
        heights = [len(part) + 1.5 for part in parts]
        figure = Figure(figsize=(8.5, 1.3 + 0.21 * sum(heights)), layout="constrained")
        all_axes = figure.subplots(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, part in zip(all_axes, parts, strict=True):
            _dots(axes, part)
        handles = {h.get_label(): h for axes in all_axes for h in axes.get_legend_handles_labels()[0]}
        figure.legend(handles=handles.values(), loc="outside lower center", ncols=4, frameon=False)
        header = content["header"]
        about = f"{', '.join(header['devices'])}, torch {header['torch']}, triton {header['triton']}"
        figure.suptitle(f"{about}: CUDA graphs, L2 flushed, medians", fontsize=9)
        with replacing(path) as new:
            figure.savefig(new, dpi=150)
    return figure


def _base(row: Mapping[str, Any]) -> float | None:
    """Seconds of the product or the plain model; of cuDNN's two ways the faster."""
    return min((row["graph"][name] for name in ("floor", OFF) if name in row["graph"]), default=None)


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """bfloat16 first, then linear layers; a network's steps by rays."""
    name, *rays = re.split(r"(\d+)(?= rays$)", row["name"])
    op = next((i for i, op in enumerate(OPS) if name.startswith(f"{op} ")), len(OPS))
    return row["precision"] != "bfloat16", row["precision"], op, name if rays else "", int(rays[0]) if rays else 0


def _dots(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line of dots for each row; at its end ours in microseconds and, for steps, peak memory."""
    steps = rows[0]["part"] == "step"
    right = axes.secondary_yaxis("right")
    ends = []
    for index, row in enumerate(rows):
        times = {name: row["graph"][name] / (_base(row) or 1.0) for name in SERIES if name in row["graph"]}
        axes.plot([min(times.values()), max(times.values())], [index, index], color="0.8", linewidth=1, zorder=1)
        for name, ratio in times.items():
            label, colour, marker = SERIES[name]
            axes.plot(ratio, index, marker, color=colour, label=label, markersize=5 if name == "ours" else 4.5)
        peaks = [f"{row['peak'][name] / 2**20:,.0f}" for name in ("ours", "authors", "floor") if name in row["peak"]]
        ends.append(f"{row['graph']['ours'] * 1e6:,.0f} µs" + (f";  {' / '.join(peaks)} MiB" if peaks else ""))
    axes.axvline(1.0, color="#4d9221", linewidth=1.2, zorder=0)
    axes.set_xscale("log")
    axes.grid(axis="x", which="both", color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    right.set_yticks(range(len(rows)), ends)
    for axis in (axes, right):
        axis.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    below = "the plain model's step" if steps else "the library's own product or convolution"
    what = "Training steps; ours, and peak memory ours / loop / plain model" if steps else "Forward + backward; ours"
    axes.set_title(f"{what} at the right", loc="left", fontsize=8)
    axes.set_xlabel(f"time over {below} on as many rows (green: 1)")


def _label(row: Mapping[str, Any]) -> str:
    """What an op's numbers mean; the precision where it is not bfloat16."""
    shape = goals.numbers(row)
    name = row["name"].removesuffix(", NHWC")
    if len(shape) == 6:
        M, n, K, O, T, r = shape
        name = f"linear {K}→{O}, {M} ray{'s' * (M > 1)} × {n}, T{T} r{r}"
    name = re.sub(r"^linear_delta \((\d+), (\d+), (\d+), (\d+), (\d+)\)", r"deltas \3→\4, \1 rays × \2, T\5", name)
    return name + ("" if row["precision"] == "bfloat16" else f" [{row['precision']}]")
