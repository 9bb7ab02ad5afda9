"""The illustrative problem: how methods move through the plane of the two losses."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from palora.report import style
from palora.report.figures import save
from palora.toy import Descent, pareto_front

FRONT: dict[str, Any] = {"color": "#9ecae1", "linewidth": 4.5, "solid_capstyle": "round", "zorder": 1}
START: dict[str, Any] = {"marker": "o", "color": "black", "markersize": 3.5, "linestyle": "none"}
END: dict[str, Any] = {"marker": "X", "color": style.POINT_COLOURS[0], "markersize": 6, "markeredgecolor": "white"}


def trajectory_figure(descents: Sequence[Descent], path: str | os.PathLike[str] | None = None) -> Figure:
    """One panel a method, as in Fig. 1 and 6 of the PaMaL paper.

    The known front is the broad line. A single point leaves a trail from its start (dot) to its end (cross), coloured
    by the step. Of a front, the whole curve over the preferences is drawn: dashed at steps on the way, coloured by
    the step, and in black at the end, with crosses at the two vertices.
    """
    names = list(dict.fromkeys(descent.method for descent in descents))
    if not names:
        raise ValueError("`descents` should hold at least one descent.")
    last = max(int(descent.steps[-1]) for descent in descents)
    with matplotlib.rc_context(style.RC):
        width = min(len(names), 4)
        height = -(-len(names) // width)
        figure = Figure(figsize=(max(2.1 * width + 0.6, 3.6), 1.95 * height + 0.6), layout="constrained")
        panels = figure.subplots(height, width, squeeze=False, sharex=True, sharey=True)
        for axes in panels.flat[len(names) :]:
            axes.set_visible(False)
        for number, (axes, name) in enumerate(zip(panels.flat, names, strict=False)):
            own = [descent for descent in descents if descent.method == name]
            axes.plot(*pareto_front(own[0].scale).T.numpy(), **FRONT)
            for descent in own:
                (_trail if len(descent.rays) == 1 else _curves)(axes, descent, Normalize(0, last))
            axes.set_title(name)
            if number + width >= len(names):
                axes.set_xlabel("loss 1")
                axes.tick_params(labelbottom=True)
            if number % width == 0:
                axes.set_ylabel("loss 2")
        bar = figure.colorbar(ScalarMappable(Normalize(0, last), style.COLOURS), ax=panels, aspect=30, pad=0.02)
        bar.set_label("step")
        bar.outline.set_visible(False)  # type: ignore[operator]
        _legend(figure)
        if path is not None:
            save(figure, Path(path))
    return figure


def _trail(axes: Axes, descent: Descent, steps: Normalize) -> None:
    way = descent.losses[:, 0].double()
    lines = LineCollection(
        list(torch.stack([way[:-1], way[1:]], dim=1).numpy()), cmap=style.COLOURS, norm=steps, linewidths=1.3, zorder=2
    )
    lines.set_array(descent.steps[1:].numpy())
    axes.add_collection(lines)
    axes.plot(*way[0].tolist(), zorder=3, **START)
    axes.plot(*way[-1].tolist(), zorder=4, **END)


def _curves(axes: Axes, descent: Descent, steps: Normalize) -> None:
    """The curve at seven moments, closer together at the beginning, when most happens."""
    count = len(descent.steps) - 1
    colours: Any = ScalarMappable(steps, style.COLOURS)
    for part in (0.0, 0.04, 0.1, 0.2, 0.35, 0.6):
        k = round(part * count)
        curve = descent.losses[k].double()
        if (curve.amax(0) - curve.amin(0)).max() == 0:  # all preferences still give the same
            axes.plot(*curve[0].tolist(), zorder=3, **START)
        else:
            colour = colours.to_rgba(float(descent.steps[k]))
            axes.plot(*curve.T.numpy(), "--", color=colour, linewidth=1.0, zorder=2)
            if k == 0:
                axes.plot(*curve[[0, -1]].T.numpy(), zorder=3, **START)
    final = descent.losses[-1].double()
    axes.plot(*final.T.numpy(), color="black", linewidth=1.0, zorder=3)
    axes.plot(*final[[0, -1]].T.numpy(), zorder=4, **{**END, "linestyle": "none"})


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], label="Pareto front (known)", **{**FRONT, "linewidth": 3.5}),
        Line2D([], [], label="start", **START),
        Line2D([], [], label="end", **{**END, "linestyle": "none"}),
        Line2D([], [], color="black", linewidth=1.0, label="front at the end"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=1.4, handlelength=2.0)
