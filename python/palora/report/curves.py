"""How runs get on: hypervolume against steps, training loss and non-dominated rays against epochs (Fig. 3c and 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from palora.engine import read_metrics
from palora.report.profiles import FRONT_COLOURS
from palora.report.saving import Where, styled

Folders = Mapping[str, "Path | str | Sequence[Path | str]"]
"""Method → its run folder, or those of several seeds."""

Value = Callable[[dict[str, Any]], "float | None"]
"""The record of an epoch → what is drawn, or None where it was not measured."""


def hypervolume_figure(runs: Folders, path: Where = None) -> Figure:
    """Hypervolume of the validation losses against training steps: mean of the seeds, their range shaded.

    Run folders as :func:`palora.engine.train` leaves them, also unfinished ones. ValueError where no validation
    is recorded.
    """
    return _figure(runs, path, "step", "step", [(_hypervolume, "hypervolume (validation losses) ↑")])


def convergence_figure(runs: Folders, path: Where = None) -> Figure:
    """Training loss, mean of the tasks and rays, and non-dominated rays of the validation grid, per epoch."""
    panels = [(_loss, "training loss ↓"), (_nondominated, "non-dominated rays ↑")]
    return _figure(runs, path, "epoch", "epoch", panels)


def _hypervolume(record: dict[str, Any]) -> float | None:
    return record["validation"]["hypervolume"] if "validation" in record else None


def _nondominated(record: dict[str, Any]) -> float | None:
    front = record.get("validation")
    return front["nondominated"] if front and len(front["rays"]) > 1 else None


def _loss(record: dict[str, Any]) -> float | None:
    return float(np.mean(record["losses"]))


def _figure(runs: Folders, path: Where, key: str, label: str, panels: Sequence[tuple[Value, str]]) -> Figure:
    named = {name: [read_metrics(folder) for folder in _several(folders)] for name, folders in runs.items()}
    with styled(path) as save:
        figure = Figure(figsize=(3.5 * len(panels), 2.6), layout="constrained")
        drawn = []
        for axes, (value, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for index, (name, seeds) in enumerate(named.items()):
                colour = FRONT_COLOURS[index % len(FRONT_COLOURS)]
                if _curve(axes, [_series(seed, key, value) for seed in seeds], colour, name):
                    drawn.append(name)
            axes.set_xlabel(label)
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if value is _nondominated:
                axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
            if axes.lines:
                axes.legend()
        if not drawn:
            raise ValueError("`runs` should hold runs with at least one epoch and validation. Found none.")
        return save(figure)


def _several(folders: Path | str | Sequence[Path | str]) -> list[Path | str]:
    return [folders] if isinstance(folders, (str, Path)) else list(folders)


def _series(records: list[dict[str, Any]], key: str, value: Value) -> dict[int, float]:
    epochs = [record for record in records if record["kind"] == "epoch"]
    found = {record[key]: value(record) for record in epochs}
    return {at: number for at, number in found.items() if number is not None}


def _curve(axes: Axes, seeds: list[dict[int, float]], colour: str, name: str) -> bool:
    """Mean and range where every seed was measured."""
    shared = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
    if not shared:
        return False
    values = np.array([[seed[at] for at in shared] for seed in seeds])
    marker = "o" if len(shared) < 25 else None
    axes.plot(shared, values.mean(0), color=colour, linewidth=1.2, marker=marker, markersize=2.5, label=name)
    if len(values) > 1:
        axes.fill_between(shared, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
    return True
