"""The figure of an ablation: hypervolume and non-dominated points against settings and against monotonicity."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from palora.report import style
from palora.report.figures import save

AXES = {
    "hypervolume_accuracies": "hypervolume of accuracies ↑",
    "hypervolume_losses": "hypervolume of losses ↑",
    "nondominated": "non-dominated rays ↑",
}


def ablation_figure(runs: Sequence[dict[str, Any]], path: str | os.PathLike[str] | None = None) -> Figure:
    """Four panels, as in Fig. 11 to 13 of the PaLoRA paper and against the settings of its Fig. 8.

    Above against the first setting, a dot a run and a line through the means; below against the mean Spearman
    coefficient between weights and losses (−1 is ideal). The second setting is the colour, the third the marker,
    further ones share the colour with the second; below, the first is the size of the dot.

    Args:
        runs: what :func:`palora.engine.ablate.run_cell` gave; those that failed are left out.
    """
    good = [run for run in runs if "failed" not in run]
    if not good:
        raise ValueError("`runs` should hold at least one run that did not fail.")
    key = "hypervolume_accuracies"
    key = key if any(run[key] is not None for run in good) else "hypervolume_losses"
    names = list(good[0]["settings"])
    coding = _Coding(good, names)
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(7.2, 5.2), layout="constrained")
        panels = figure.subplots(2, 2, sharey="col")
        for column, measure in enumerate((key, "nondominated")):
            _against_setting(panels[0, column], good, measure, coding)
            _against_spearman(panels[1, column], good, measure, coding)
            for axes in panels[:, column]:
                axes.set_ylabel(AXES[measure])
                if measure == "nondominated":
                    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if coding.handles():
            figure.legend(handles=coding.handles(), loc="outside lower center", ncols=4, columnspacing=1.4)
        if path is not None:
            save(figure, Path(path))
    return figure


class _Coding:
    """Which value of which setting is where, in which colour, with which marker."""

    def __init__(self, runs: Sequence[dict[str, Any]], names: list[str]) -> None:
        self.first = names[0] if names else ""
        self.marked = names[2] if len(names) > 2 else ""
        self.coloured = [name for name in names if name not in (self.first, self.marked)]
        self.places = _values(runs, lambda run: _text(run, [self.first]))
        self.colours = _values(runs, lambda run: _text(run, self.coloured))
        self.markers = _values(runs, lambda run: _text(run, [self.marked]))

    def place(self, run: dict[str, Any]) -> int:
        return self.places.index(_text(run, [self.first]))

    def colour(self, run: dict[str, Any]) -> Any:
        return self._colour(self.colours.index(_text(run, self.coloured)))

    def _colour(self, index: int) -> Any:
        colours: Any = ScalarMappable(Normalize(0, max(len(self.colours) - 1, 1) * 1.15), style.COLOURS)
        return colours.to_rgba(index)

    def marker(self, run: dict[str, Any]) -> str:
        return style.FRONT_MARKERS[self.markers.index(_text(run, [self.marked])) % len(style.FRONT_MARKERS)]

    def line(self, run: dict[str, Any]) -> Any:
        return style.FRONT_LINES[self.markers.index(_text(run, [self.marked])) % len(style.FRONT_LINES)]

    def handles(self) -> list[Line2D]:
        dot: dict[str, Any] = {"linestyle": "none", "markersize": 5}
        found = [
            Line2D([], [], marker="o", color=self._colour(i), label=text, **dot)
            for i, text in enumerate(self.colours)
            if text
        ]
        found += [
            Line2D([], [], marker=style.FRONT_MARKERS[i % len(style.FRONT_MARKERS)], color="0.45", label=text, **dot)
            for i, text in enumerate(self.markers)
            if text
        ]
        return found


def _against_setting(axes: Axes, runs: Sequence[dict[str, Any]], measure: str, coding: _Coding) -> None:
    """Dots beside each other within a place, a line through the means of each colour and marker."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault((str(coding.colour(run)), coding.marker(run)), []).append(run)
    for number, group in enumerate(groups.values()):
        shift = 0.36 * ((number + 0.5) / len(groups) - 0.5)
        colour, marker = coding.colour(group[0]), coding.marker(group[0])
        means: dict[int, list[float]] = {}
        for run in group:
            means.setdefault(coding.place(run), []).append(run[measure])
            axes.scatter(
                coding.place(run) + shift, run[measure], 14, color=colour, marker=marker, alpha=0.65, linewidths=0
            )
        places = sorted(means)
        heights = [sum(means[place]) / len(means[place]) for place in places]
        axes.plot(
            [place + shift for place in places], heights, color=colour, linewidth=1.0, linestyle=coding.line(group[0])
        )
    axes.set_xticks(range(len(coding.places)), [text.partition(" = ")[2] for text in coding.places])
    axes.set_xlim(-0.5, len(coding.places) - 0.5)
    axes.set_xlabel(coding.first)


def _against_spearman(axes: Axes, runs: Sequence[dict[str, Any]], measure: str, coding: _Coding) -> None:
    for run in runs:
        if run["spearman"] is not None:
            size = 12 + 10 * coding.place(run)
            axes.scatter(
                run["spearman"],
                run[measure],
                size,
                color=coding.colour(run),
                marker=coding.marker(run),
                alpha=0.75,
                linewidths=0,
            )
    axes.set_xlabel("Spearman coefficient of weight and loss" + (f"; size: {coding.first}" if coding.first else ""))


def _values(runs: Sequence[dict[str, Any]], of: Any) -> list[str]:
    return list(dict.fromkeys(of(run) for run in runs))


def _text(run: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} = {run['settings'][name]}" for name in names if name)
