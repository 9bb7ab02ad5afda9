"""Three tasks: the front as a surface in the space of their metrics or losses (PaLoRA paper, Fig. 3b and 7)."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from palora.evaluation import Front
from palora.rays import simplex_grid
from palora.report import style
from palora.report.columns import Runs, as_runs, columns, loss_names, metric_names, nondominated_rows
from palora.report.saving import Where, styled
from palora.report.triangle import CORNERS, HEIGHT

# The colours of the three vertices; a preference mixes them.
VERTICES = torch.tensor([[0.76, 0.15, 0.18], [0.13, 0.45, 0.71], [0.16, 0.63, 0.37]], dtype=torch.float64)


def space_figure(
    fronts: Runs | Front, path: Where = None, *, metrics: bool = True, points: Runs | None = None
) -> Figure:
    """Every ray of a three-task front as a dot in space, coloured by its preference; beside it the key of colours.

    One panel a method, on the same axes; several seeds in one panel. Dominated rays (on losses) are hollow.
    Controls are black stars. ValueError if there are not three tasks.
    """
    named, controls = as_runs(fronts), as_runs(points)
    runs = [front for several in (*named.values(), *controls.values()) for front in several]
    if not runs or any(len(front.tasks) != 3 for front in runs):
        raise ValueError("`fronts` should hold at least one front, each of three tasks.")
    names = (metric_names(runs[0]) if metrics else None) or loss_names(runs[0])
    scale = torch.tensor([style.shown(name) for name in names], dtype=torch.float64)
    everything = torch.cat([columns(front, names) * scale for front in runs])
    everything = everything[everything.isfinite().all(1)]
    with styled(path) as save:
        figure = Figure(figsize=(3.3 * len(named) + 1.5, 3.1))
        widths = [3.3] * len(named) + [1.3]
        grid = figure.add_gridspec(
            1, len(widths), width_ratios=widths, left=0.05, right=0.97, bottom=0.08, top=0.94, wspace=0.25
        )
        for place, (method, several) in enumerate(named.items()):
            axes = figure.add_subplot(grid[place], projection="3d")
            for front in several:
                _rays(axes, front, columns(front, names) * scale)
            for control in (front for some in controls.values() for front in some):
                axes.scatter(*(columns(control, names) * scale).T.numpy(), marker="*", s=60, color="black")
            _frame(axes, names, everything, method)
        _key(figure.add_subplot(grid[-1]), runs[0].tasks, bool(controls))
        return save(figure)


def _rays(axes: Any, front: Front, values: Tensor) -> None:
    good = nondominated_rows(front)
    colours = (front.rays.double() @ VERTICES).clamp(0, 1)
    shared = {"s": 14, "linewidths": 0.8, "depthshade": False}
    for mask, filled in ((good, True), (~good, False)):
        if not mask.any():
            continue
        at = values[mask].T.numpy()
        shade = colours[mask].numpy()
        axes.scatter(*at, facecolors=shade if filled else "white", edgecolors=shade, **shared)


def _frame(axes: Any, names: list[str], values: Tensor, title: str) -> None:
    low, high = values.amin(0), values.amax(0)
    room = (high - low).clamp(min=1e-9) * 0.05
    for axis, name, start, end in zip("xyz", names, (low - room).tolist(), (high + room).tolist(), strict=True):
        getattr(axes, f"set_{axis}label")(style.label(name), labelpad=-2)
        getattr(axes, f"set_{axis}lim")(start, end)
        axes.tick_params(axis=axis, pad=-2, labelsize=6)
        getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(4))
        getattr(axes, f"{axis}axis").get_major_formatter().set_useOffset(False)
    axes.view_init(elev=24, azim=38)
    axes.set_box_aspect(None, zoom=0.88)
    if title:
        axes.set_title(title, y=0.97)


def _key(axes: Any, tasks: tuple[str, ...], controls: bool) -> None:
    """The triangle of preferences in its colours."""
    rays = simplex_grid(3, 24).double()
    x, y = (rays @ CORNERS).T.numpy()
    axes.scatter(x, y, color=(rays @ VERTICES).clamp(0, 1).numpy(), s=5, marker="h", linewidths=0)
    for task, (cx, cy), side in zip(tasks, CORNERS.tolist(), (1, -1, -1), strict=True):
        axes.text(cx, cy + 0.08 * side, task, ha="center", va="bottom" if side > 0 else "top", fontsize=7)
    axes.text(0.5, -0.42, "preference", ha="center", va="top", fontsize=7)
    if controls:
        star = Line2D([], [], marker="*", linestyle="none", color="black", markersize=7, label="control")
        axes.legend(handles=[star], loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axes.set_xlim(-0.25, 1.25)
    axes.set_ylim(-0.6, HEIGHT + 0.5)
    axes.set_aspect("equal")
    axes.axis("off")
