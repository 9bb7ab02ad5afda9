"""Any number of tasks: what a task achieves against the weight it is given, one panel a task."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from palora.evaluation import Front
from palora.report import style
from palora.report.columns import columns, nondominated_rows

FRONT_COLOURS = ("#31688e", "#35b779", "#440154", "#e08214", "#c1272d", "0.4")


def grid_shape(tasks: int) -> tuple[int, int]:
    """Rows and columns of the panels."""
    width = min(tasks, 4)
    return math.ceil(tasks / width), width


def draw(figure: Figure, fronts: dict[str, list[Front]], points: dict[str, list[Front]], names: Sequence[str]) -> None:
    """Each ray is a dot, hollow if dominated; controls are horizontal lines. The title gives Spearman's ρ."""
    panels = list(figure.subplots(*grid_shape(len(names)), squeeze=False).flat)
    tasks = next(iter(fronts.values()))[0].tasks
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        scale = style.shown(name)
        for method, runs in enumerate(fronts.values()):
            colour = FRONT_COLOURS[method % len(FRONT_COLOURS)]
            marker = style.FRONT_MARKERS[method % len(style.FRONT_MARKERS)]
            for front in runs:
                x, y = front.rays[:, index].numpy(), columns(front, names)[:, index].numpy() * scale
                good = nondominated_rows(front).numpy()
                size = 14 / len(runs) ** 0.5
                axes.scatter(x[good], y[good], s=size, color=colour, marker=marker, linewidths=0.7)
                axes.scatter(
                    x[~good],
                    y[~good],
                    s=size,
                    facecolors="none",
                    edgecolors=colour,
                    marker=marker,
                    linewidths=0.7,
                )
        for point, runs in enumerate(points.values()):
            for front in runs:
                colour = style.POINT_COLOURS[point % len(style.POINT_COLOURS)]
                axes.axhline(columns(front, names)[:, index].mean().item() * scale, color=colour, linewidth=0.9)
        axes.set_title(_spearman(fronts, index), fontsize=7)
        axes.set_xlabel(f"preference for {tasks[index]}")
        axes.set_ylabel(style.label(name))
    for axes in panels[len(names) :]:
        axes.axis("off")
    _legend(figure, fronts, points)


def _spearman(fronts: dict[str, list[Front]], task: int) -> str:
    if len(fronts) > 1:
        return ""
    runs = [front for front in next(iter(fronts.values())) if front.losses.isfinite().all()]
    values = [front.monotonicity()[task].item() for front in runs]
    mean = sum(values) / len(values) if values else math.nan
    return "" if math.isnan(mean) else f"ρ(weight, loss) = {mean:.2f}".replace("-", "−")


def _legend(figure: Figure, fronts: dict[str, list[Front]], points: dict[str, list[Front]]) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=style.FRONT_MARKERS[index % len(style.FRONT_MARKERS)],
            color=FRONT_COLOURS[index % len(FRONT_COLOURS)],
            markersize=4,
            label=name,
        )
        for index, name in enumerate(fronts)
    ]
    colours = style.POINT_COLOURS
    handles += [Line2D([], [], color=colours[i % len(colours)], label=name) for i, name in enumerate(points)]
    handles = [handle for handle in handles if handle.get_label()]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
