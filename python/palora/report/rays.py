"""The schedules drawn: where the rays of a step lie as training goes on (PaLoRA paper, Fig. 2 and 10)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from palora.rays import schedules
from palora.report.saving import Where, styled
from palora.report.solid import VERTICES
from palora.report.triangle import CORNERS, HEIGHT

TIMES = (0.0, 0.1, 0.3, 1.0)


def lattice_figure(path: Where = None, *, rays: Sequence[int] = (6, 10, 15), temperature: float = 5.0) -> Figure:
    """A row for every M: the base rays of three tasks, smoothed off the edges, and the rays of four times τ.

    They start in the centre of the simplex and move outwards; each is coloured by its preference.
    """
    with styled(path) as save:
        figure = Figure(figsize=(1.55 * (len(TIMES) + 1), 1.5 * len(rays) + 0.2), layout="constrained")
        panels = figure.subplots(len(rays), len(TIMES) + 1, squeeze=False)
        for row, count in zip(panels, rays, strict=True):
            _triangle(row[0], schedules.Fixed(3, count)(0.0), f"base rays, M = {count}")
            for axes, tau in zip(row[1:], TIMES, strict=True):
                schedule = schedules.Annealed(3, count, temperature=temperature)
                _triangle(axes, schedule(tau), f"τ = {tau:g}")
        return save(figure)


def _triangle(axes: Axes, rays: Tensor, title: str) -> None:
    points = rays.double()
    outline = CORNERS[[0, 1, 2, 0]]
    axes.plot(*outline.T.numpy(), color="0.6", linewidth=0.7, zorder=1)
    x, y = (points @ CORNERS).T.numpy()
    colours = (points @ VERTICES).clamp(0, 1).numpy()
    axes.scatter(x, y, c=colours, s=14, edgecolors="white", linewidths=0.4, zorder=3, clip_on=False)
    for task, ((cx, cy), side) in enumerate(zip(CORNERS.tolist(), (1, -1, -1), strict=True), start=1):
        va = "bottom" if side > 0 else "top"
        axes.text(cx, cy + 0.05 * side, f"task {task}", ha="center", va=va, fontsize=6, color="0.3")
    axes.set_title(title, fontsize=7, pad=9)
    axes.set_xlim(-0.18, 1.18)
    axes.set_ylim(-0.2, HEIGHT + 0.18)
    axes.set_aspect("equal")
    axes.axis("off")
