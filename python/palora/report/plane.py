"""Two tasks: the front as a curve in the plane of metrics and in the plane of losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from palora.evaluation import Front
from palora.report import style
from palora.report.columns import columns, nondominated_rows

GREY = "0.45"


def draw(
    figure: Figure,
    fronts: dict[str, list[Front]],
    points: dict[str, list[Front]],
    spaces: Sequence[Sequence[str]],
) -> None:
    """One panel for each of `spaces` (pairs of names of metrics or losses), a colour bar and a legend."""
    tasks = next(iter(fronts.values()))[0].tasks
    panels = figure.subplots(1, len(spaces), squeeze=False)[0]
    for axes, names in zip(panels, spaces, strict=True):
        for index, runs in enumerate(fronts.values()):
            for front in runs:
                _curve(axes, front, names, index, many=len(runs) > 1)
        for index, runs in enumerate(points.values()):
            for front in runs:
                values = columns(front, names) * _scale(names)
                axes.plot(*values.T.numpy(), zorder=5, **_control(index, 11 if len(runs) == 1 else 8))
        axes.set_xlabel(style.label(names[0]))
        axes.set_ylabel(style.label(names[1]))
        axes.margins(0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5))  # room for values that differ in the fourth digit
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), style.COLOURS), ax=list(panels), pad=0.02, aspect=28, shrink=0.95
    )
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_ticks([0, 0.5, 1], labels=[f"0  (all {tasks[1]})", "0.5", f"1  (all {tasks[0]})"])
    bar.set_label(f"preference for {tasks[0]}", labelpad=-18)
    _legend(figure, fronts, points)


def _scale(names: Sequence[str]) -> Tensor:
    return torch.tensor([style.shown(name) for name in names], dtype=torch.float64)


def _curve(axes: Axes, front: Front, names: Sequence[str], index: int, many: bool) -> None:
    """The rays of a front in the order of their preference: coloured by λ_1, hollow where dominated."""
    order = front.rays[:, 0].argsort(stable=True)
    x, y = (columns(front, names) * _scale(names))[order].T.numpy()
    weight, good = front.rays[order, 0].numpy(), nondominated_rows(front)[order].numpy()
    line = style.FRONT_LINES[index % len(style.FRONT_LINES)]
    axes.plot(x, y, line, color=GREY, linewidth=0.6 if many else 0.9, alpha=0.7, zorder=2)
    marker, size = style.FRONT_MARKERS[index % len(style.FRONT_MARKERS)], 12 if many else 26
    shared: dict[str, Any] = {"marker": marker, "s": size, "linewidths": 0.9, "clip_on": False}
    colours = ScalarMappable(Normalize(0, 1), style.COLOURS).to_rgba(weight)
    axes.scatter(x[good], y[good], color=colours[good], zorder=4, **shared)
    axes.scatter(x[~good], y[~good], facecolors="white", edgecolors=colours[~good], zorder=3, **shared)


def _control(index: int, size: float) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": style.POINT_MARKERS[index % len(style.POINT_MARKERS)],
        "markersize": size,
        "color": style.POINT_COLOURS[index % len(style.POINT_COLOURS)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.5,
    }


def _legend(figure: Figure, fronts: dict[str, list[Front]], points: dict[str, list[Front]]) -> None:
    handles = []
    for index, name in enumerate(fronts):
        marker = style.FRONT_MARKERS[index % len(style.FRONT_MARKERS)]
        line = style.FRONT_LINES[index % len(style.FRONT_LINES)]
        handles.append(Line2D([], [], color=GREY, marker=marker, linestyle=line, markersize=5, label=name))
    if any(not nondominated_rows(front).all() for runs in fronts.values() for front in runs):
        hollow = Line2D([], [], linestyle="none", marker="o", markersize=5, label="dominated (on losses)")
        hollow.set(markerfacecolor="white", markeredgecolor=GREY)
        handles.append(hollow)
    handles += [Line2D([], [], label=name, **_control(index, 9)) for index, name in enumerate(points)]
    handles = [handle for handle in handles if handle.get_label()]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=min(len(handles), 6),
            columnspacing=1.6,
            handlelength=2.6,
        )
