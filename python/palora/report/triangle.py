"""Three tasks: a map over the triangle of preferences for every task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation
from torch import Tensor

from palora.evaluation import Front
from palora.evaluation.direction import larger_is_better
from palora.report import style
from palora.report.columns import columns, nondominated_rows

HEIGHT = 3**0.5 / 2
FILLED: dict[str, Any] = {"s": 9, "facecolors": "white", "edgecolors": "0.3", "linewidths": 0.5}
HOLLOW: tuple[dict[str, Any], ...] = (  # a white ring on a dark one: seen on every colour of the map
    {"s": 11, "facecolors": "none", "edgecolors": "0.3", "linewidths": 1.3},
    {"s": 11, "facecolors": "none", "edgecolors": "white", "linewidths": 0.6},
)
STAR: dict[str, Any] = {
    "marker": "*",
    "s": 80,
    "facecolors": "#c1272d",
    "edgecolors": "white",
    "linewidths": 0.6,
}
CORNERS = torch.tensor([[0.5, HEIGHT], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)  # tasks: top, left, right


def drawable(fronts: dict[str, list[Front]], names: Sequence[str]) -> bool:
    """Whether every front has finite values at rays that span the triangle, the same rays for every seed."""
    for runs in fronts.values():
        rays = runs[0].rays
        if any(front.rays.shape != rays.shape or not torch.allclose(front.rays, rays) for front in runs):
            return False
        usable = rays[_mean(runs, names).isfinite().all(1)].double()
        if (rays < -1e-6).any() or torch.linalg.matrix_rank(usable) < 3:
            return False
    return True


def draw(figure: Figure, fronts: dict[str, list[Front]], points: dict[str, list[Front]], names: Sequence[str]) -> None:
    """One row a method and one column a task; several seeds are averaged. Controls are ticks on the colour
    bars.

    A dot marks a ray, hollow if dominated (for several seeds: in most of them), a star the best ray of the
    panel.
    """
    panels = figure.subplots(len(fronts), len(names), squeeze=False)
    for column, name in enumerate(names):
        values = {method: _mean(runs, names)[:, column] for method, runs in fronts.items()}
        controls = {point: _mean(runs, names)[:, column].mean().item() for point, runs in points.items()}
        everything = torch.cat([*values.values(), torch.tensor(list(controls.values()), dtype=torch.float64)])
        finite = everything[everything.isfinite()]
        limits = (finite.min().item(), finite.max().item()) if len(finite) else (0.0, 1.0)
        for row, (method, runs) in enumerate(fronts.items()):
            axes = panels[row, column]
            mapped = _map(axes, runs, values[method], name, limits)
            if column == 0 and len(fronts) > 1:
                axes.text(-0.1, HEIGHT / 2, method, rotation=90, ha="center", va="center")
        bar = figure.colorbar(
            mapped,
            ax=list(panels[:, column]),
            location="bottom",
            shrink=0.85,
            aspect=24,
            pad=0.06,
            ticks=MaxNLocator(4),  # labels of narrow ranges are long
        )
        bar.set_label(style.label(name))
        bar.outline.set_visible(False)  # type: ignore[operator]
        for index, (point, value) in enumerate(controls.items()):
            colour = style.POINT_COLOURS[index % len(style.POINT_COLOURS)]
            bar.ax.plot([value, value], [0, 1], color=colour, linewidth=1.6, clip_on=False)
            bar.ax.annotate(
                point, (value, 1), (0, 2), textcoords="offset points", ha="center", color=colour, fontsize=6.5
            )
    _legend(figure)


def _legend(figure: Figure) -> None:
    ray = Line2D([], [], marker="o", markerfacecolor="white", markeredgecolor="0.3", markersize=4, label="ray")
    hollow = Line2D([], [], marker="o", markersize=4, label="dominated (on losses)")
    hollow.set(
        markerfacecolor="0.7",
        markeredgecolor="white",
        path_effects=[withStroke(linewidth=1, foreground="0.3")],
    )
    best = Line2D([], [], marker="*", color=STAR["facecolors"], markeredgecolor="white", markersize=9, label="best ray")
    for handle in (ray, hollow, best):
        handle.set_linestyle("none")
    figure.legend(handles=[ray, hollow, best], loc="outside lower center", ncols=3, columnspacing=1.6)


def _mean(runs: list[Front], names: Sequence[str]) -> Tensor:
    scale = torch.tensor([style.shown(name) for name in names], dtype=torch.float64)
    return torch.stack([columns(front, names) for front in runs]).mean(0) * scale


def _map(axes: Axes, runs: list[Front], values: Tensor, name: str, limits: tuple[float, float]) -> Any:
    front = runs[0]
    x, y = (front.rays.double() @ CORNERS).T.numpy()
    good = torch.stack([nondominated_rows(run) for run in runs]).double().mean(0).numpy() > 0.5
    usable = values.isfinite().numpy()
    # Darker is better in every panel, whichever way the values run.
    colours = "viridis_r" if larger_is_better(name) else "viridis"
    triangles = Triangulation(x[usable], y[usable])
    mapped = axes.tripcolor(
        triangles, values.numpy()[usable], shading="gouraud", cmap=colours, vmin=limits[0], vmax=limits[1]
    )
    for mask, layers in ((good, (FILLED,)), (~good, HOLLOW)):
        for layer in layers:
            axes.scatter(x[mask], y[mask], zorder=3, clip_on=False, **layer)
    best = int((values if larger_is_better(name) else -values).nan_to_num(-torch.inf).argmax())
    axes.scatter(x[best], y[best], zorder=4, clip_on=False, **STAR)
    for task, (cx, cy), side in zip(front.tasks, CORNERS.tolist(), (1, -1, -1), strict=True):
        axes.text(cx, cy + 0.05 * side, task, ha="center", va="bottom" if side > 0 else "top")
    axes.set_xlim(-0.12, 1.12)
    axes.set_ylim(-0.16, HEIGHT + 0.16)  # room for the names of the tasks
    axes.set_aspect("equal")
    axes.axis("off")
    return mapped
