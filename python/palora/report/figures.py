"""Pictures of fronts, fit for a paper."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from palora.evaluation import Front
from palora.files import replacing
from palora.report import plane, profiles, style, triangle
from palora.report.columns import Runs, as_runs, loss_names, metric_names

FORMATS = (".pdf", ".png", ".svg")


def front_figure(
    fronts: Runs | Front,
    path: str | os.PathLike[str] | None = None,
    *,
    metrics: bool = True,
    points: Runs | None = None,
    title: str = "",
) -> Figure:
    """Draw fronts, and controls beside them.

    * Two tasks: the plane of the metrics and the plane of the losses. A ray is a dot coloured by the
      preference for the first task, hollow where another ray of its front dominates it (on losses); a line
      joins the rays in the order of their preference. Controls are single markers.
    * Three tasks and rays that span the simplex: a map over the triangle of preferences for each task.
    * Otherwise: for each task, what it achieves against its preference.

    Args:
        fronts: name → front, or list of fronts of several seeds (two tasks: thin lines; three tasks: their
        mean).
        path: where to save, as .pdf, .png or .svg; None: nowhere.
        metrics: show the metrics where every task has one. False: losses alone.
        points: name → front or list of fronts of one ray: linear scalarisation, single-task learning.
        title: a line above everything.

    Returns the figure. The backend that the caller uses is left alone. Raises ValueError for fronts of
    different tasks, an empty set of fronts and a `path` of another format.
    """
    named, controls = as_runs(fronts), as_runs(points)
    first = _checked(named, controls)
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"`path` should end in {', '.join(FORMATS)}. Found {os.fspath(path)!r}.")
    measured = metric_names(first) if metrics else None
    names = measured or loss_names(first)
    with matplotlib.rc_context(style.RC):
        figure = Figure(layout="constrained")
        if len(first.tasks) == 2:
            spaces = [names for names in (measured, loss_names(first)) if names is not None]
            figure.set_size_inches(3.6 * len(spaces), 3.0)
            plane.draw(figure, named, controls, spaces)
        elif len(first.tasks) == 3 and triangle.drawable(named, names):
            figure.set_size_inches(7.2, 1.0 + 2.1 * len(named))
            triangle.draw(figure, named, controls, names)
        else:
            rows, width = profiles.grid_shape(len(first.tasks))
            figure.set_size_inches(1.9 * max(width, 2), 0.3 + 1.8 * rows)
            profiles.draw(figure, named, controls, names)
        if title:
            figure.suptitle(title, fontsize=9)
        if path is not None:
            save(figure, Path(path))
    return figure


def _checked(fronts: dict[str, list[Front]], points: dict[str, list[Front]]) -> Front:
    """The first front, once all are known to be comparable."""
    everything = [front for runs in (*fronts.values(), *points.values()) for front in runs]
    if not fronts or not all(fronts.values()) or not all(len(front) for front in everything):
        raise ValueError("`fronts` should hold at least one front with at least one ray under every name.")
    first = everything[0]
    for front in everything:
        if front.tasks != first.tasks:
            raise ValueError(
                f"`fronts` and `points` should have the same tasks. Found {first.tasks} and {front.tasks}."
            )
    return first


def save(figure: Figure, path: Path) -> None:
    """Write a figure; without the date, so that the same picture is the same file."""
    dates = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with replacing(path) as new:
        figure.savefig(new, dpi=200, metadata=dates.get(path.suffix.lower()))
