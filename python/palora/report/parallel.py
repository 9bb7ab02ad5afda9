"""Many tasks: a front as lines across one axis a task (parallel coordinates)."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from palora.evaluation import Front
from palora.evaluation.direction import larger_is_better
from palora.report import style
from palora.report.columns import Runs, as_runs, columns, loss_names, metric_names, nondominated_rows
from palora.report.profiles import FRONT_COLOURS
from palora.report.saving import Where, styled


def parallel_figure(
    fronts: Runs | Front, path: Where = None, *, metrics: bool = False, points: Runs | None = None
) -> Figure:
    """One row of axes a method; a ray is a line, coloured by the task it prefers most, faint where dominated.

    Every axis runs from the worst (bottom) to the best value (top) of its task over all methods; both are
    written beside it. A line that belongs to a colour should be high on the axis of that colour. Controls are
    black lines. Losses, or one metric a task with `metrics`.
    """
    named, controls = as_runs(fronts), as_runs(points)
    runs = [front for several in (*named.values(), *controls.values()) for front in several]
    if not runs or any(front.tasks != runs[0].tasks for front in runs):
        raise ValueError("`fronts` should hold at least one front, all of the same tasks.")
    names = (metric_names(runs[0]) if metrics else None) or loss_names(runs[0])
    up = torch.tensor([1.0 if larger_is_better(name) else -1.0 for name in names], dtype=torch.float64)
    everything = torch.cat([columns(front, names) for front in runs]) * up
    worst = torch.where(everything.isfinite(), everything, torch.inf).amin(0)
    best = torch.where(everything.isfinite(), everything, -torch.inf).amax(0)

    def height(front: Front) -> Tensor:
        return (columns(front, names) * up - worst) / (best - worst).clamp(min=1e-12)

    with styled(path) as save:
        figure = Figure(figsize=(0.95 * len(names) + 0.9, 1.9 * len(named) + 0.7), layout="constrained")
        panels = figure.subplots(len(named), 1, squeeze=False, sharex=True)[:, 0]
        for axes, (method, several) in zip(panels, named.items(), strict=True):
            for front in several:
                _lines(axes, front, height(front))
            for some in controls.values():
                for front in some:
                    axes.plot(range(len(names)), height(front)[0], color="black", linewidth=1.2, zorder=4)
            _axes(axes, worst * up, best * up, names)
            axes.set_title(method, loc="left")
        panels[-1].set_xticks(range(len(names)), runs[0].tasks)
        handles = [Line2D([], [], color=_colour(t), label=f"prefers {task}") for t, task in enumerate(runs[0].tasks)]
        handles += [Line2D([], [], color="black", label=name) for name in controls]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
        return save(figure)


def _lines(axes: Axes, front: Front, heights: Tensor) -> None:
    good = nondominated_rows(front)
    favourite = front.rays.argmax(1)
    for row, task in enumerate(favourite.tolist()):
        alpha = 0.75 if good[row] else 0.2
        axes.plot(range(heights.shape[1]), heights[row], color=_colour(task), linewidth=0.6, alpha=alpha, zorder=2)


def _axes(axes: Axes, worst: Tensor, best: Tensor, names: list[str]) -> None:
    axes.grid(False)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)
    axes.set_ylim(-0.16, 1.16)
    for t, name in enumerate(names):
        axes.axvline(t, 0.12, 0.88, color=_colour(t), linewidth=1.6, zorder=3)
        scale = style.shown(name)
        for value, at, side in ((best[t], 1.04, "bottom"), (worst[t], -0.04, "top")):
            axes.text(t, at, f"{value.item() * scale:.3g}", ha="center", va=side, fontsize=6.5)


def _colour(task: int) -> str:
    return (*FRONT_COLOURS, "#8c6bb1", "#00688b")[task % (len(FRONT_COLOURS) + 2)]
