"""Evaluate a run, draw its front, print the numbers: the end of `train`, the whole of `evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palora.cli.console import say, table
from palora.errors import PaloraError
from palora.optional import need

if TYPE_CHECKING:
    from palora.engine import Evaluation
    from palora.evaluation import Front


def require_packages() -> None:
    """MissingPackageError where what the end of a run needs is absent: said before hours of work, not after."""
    need("moocore", "The hypervolume of a front")
    need("matplotlib", "The picture of a front")


def finish(folder: Path, controls: Iterable[Path], pseudo: bool = False, **how: Any) -> None:
    """Evaluate the run in `folder` (`how`: arguments of `palora.engine.evaluate`), draw and print it.

    `pseudo`: at preferences outside the simplex too.
    """
    from palora.engine import RunConfig, controls_beside, evaluate
    from palora.engine.pseudo import add_pseudo, require_adapters
    from palora.engine.sole_writer import sole_writer

    require_packages()
    config = RunConfig.read(folder / "config.json")  # what is no run folder is not made one
    if pseudo:
        require_adapters(config)
    points = {control_name(run): read_front(run) for run in controls}
    neighbours = {} if points else controls_beside(folder, left_out)
    with sole_writer(folder):
        result = evaluate(folder, **how)
        points = fitting(points, neighbours, result.front)
        pictures = draw(result, points)
        beyond = add_pseudo(result)[1] if pseudo else None
    show_rays(result.front)
    say()
    show_summary(result)
    if beyond is not None:
        say("\npseudo-preferences")
        show_rays(beyond, mark=False)
    for name, point in points.items():
        numbers = ", ".join(f"{column} {values[0]:.4f}" for column, values in columns(point).items())
        say(f"{'control ' + name:<20} {numbers}")
    if "stl" in points:
        show_delta(result, points["stl"])
    say()
    line("peak memory", peak_memory())
    say(f"{'run folder':<20} {folder}")
    say(f"{'numbers':<20} {result.run.front_file}")
    say(f"{'picture':<20} {', '.join(map(str, pictures))}")


def left_out(why: str) -> None:
    """Say on stderr that a run beside this one is not shown."""
    print(f"palora: left out: {why}", file=sys.stderr)


def fitting(controls: dict[str, Front], neighbours: dict[str, Front], front: Front) -> dict[str, Front]:
    """The controls that can be drawn beside `front`; PaloraError for one that was named and cannot, a line on stderr
    for a neighbour."""
    fit = dict(controls)
    for name, point in {**neighbours, **controls}.items():
        absent = sorted(set(front.metrics) - set(point.metrics))
        why = f"it has no {absent[0]}" if absent else None
        if point.tasks != front.tasks:
            why = f"its tasks are {', '.join(point.tasks)}, not {', '.join(front.tasks)}"
        if why is None:
            fit[name] = point
        elif name in controls:
            raise PaloraError(f"The control '{name}' cannot be shown: {why}.")
        else:
            left_out(f"The control '{name}' cannot be shown: {why}.")
    return fit


def draw(result: Evaluation, points: dict[str, Front]) -> list[Path]:
    """Write front.png and front.pdf into the run folder."""
    from palora.report.figures import front_figure

    paths = [result.run.path / f"front.{kind}" for kind in ("png", "pdf")]
    for path in paths:
        front_figure({result.config.method: result.front}, path, points=points)
    return paths


def show_rays(front: Front, mark: bool = True) -> None:
    """One line a ray: preference, losses, metrics; * marks the rays that no other dominates."""
    best = front.nondominated().tolist()
    named = columns(front)
    head = ["preference", *named, ""]
    rows = [
        [
            " ".join(f"{weight:.2f}" for weight in ray),
            *(f"{values[i]:.4f}" for values in named.values()),
            "*" if mark and best[i] and len(front) > 1 else "",
        ]
        for i, ray in enumerate(front.rays.tolist())
    ]
    table(head, rows, right=range(1, len(head)))


def show_summary(result: Evaluation) -> None:
    """The numbers of front.json that go into a table."""
    numbers, front = result.summary, result.front
    volume = numbers["hypervolume"]
    line("split", f"{numbers['split']}, {numbers['checkpoint']} checkpoint, epochs {numbers['epochs']}")
    line("hypervolume", f"losses {volume['losses']:.4f} (reference {point(volume['losses_reference'])})")
    if volume["accuracies"] is not None:
        line("", f"accuracies {volume['accuracies']:.4f} (reference {point(volume['accuracies_reference'])})")
    if len(front) == 1:
        return
    count = numbers["nondominated"]
    line("nondominated", f"{count['count']} of {count['of']} rays (marked *)")
    spearman = {task: "-" if value is None else f"{value:.3f}" for task, value in numbers["spearman"].items()}
    line("spearman", ", ".join(f"{task} {value}" for task, value in spearman.items()))
    best = numbers["best_of_grid"].items()
    line("best of grid", ", ".join(f"{name} {found['value']:.4f}" for name, found in best))
    for name, values in numbers["fixed_rays"].items():
        label = "ray centre" if name == "centre" else f"ray all on {name}"
        if values is not None:
            line(label, ", ".join(f"{column} {value:.4f}" for column, value in values.items()))


def show_delta(result: Evaluation, single: Front) -> None:
    """Δm, the mean relative loss against single-task learning, at the vertices and in the centre: below 0 is a gain."""
    from palora.evaluation import compared, delta_m

    alone = {name: values[0].item() for name, values in single.metrics.items()}
    rays = {name: values for name, values in result.summary["fixed_rays"].items() if values is not None}
    found = []
    for name, values in rays.items():
        metrics = {key: values[key] for key in compared(values) if key in alone}
        label = "centre" if name == "centre" else f"all on {name}"
        try:
            found.append(f"{label} {delta_m(metrics, alone):+.2f} %")
        except ValueError as error:  # a single-task metric of 0, as a run of a few steps may have
            found.append(f"{label} undefined ({error})")
    line("Δm against stl", ", ".join(found))


def columns(front: Front) -> dict[str, list[float]]:
    """Everything measured, by name."""
    losses = {f"loss/{task}": front.losses[:, t].tolist() for t, task in enumerate(front.tasks)}
    return {**losses, **{name: values.tolist() for name, values in front.metrics.items()}}


def control_name(run: Path) -> str:
    """What a control is called in the picture: its method."""
    from palora.engine import RunConfig

    return RunConfig.read(run / "config.json").method


def read_front(run: Path) -> Front:
    """The front of an evaluated run."""
    from palora.evaluation import Front

    if not (run / "front.json").exists():
        raise PaloraError(f"{run} has no front.json: run `palora evaluate {run}` first.")
    front = Front.load(run / "front.json")
    if len(front) != 1:
        raise PaloraError(f"A control is a single point; {run} holds a front of {len(front)} rays.")
    return front


def peak_memory() -> str:
    """The most memory that this process has held so far, on the machine and on the GPU."""
    import torch

    found = []
    try:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
        found.append(f"{most / (2**30 if sys.platform == 'darwin' else 2**20):.2f} GiB")
    except ImportError:  # not on Windows
        pass
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found.append(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on the GPU")
    return ", ".join(found) or "unknown"


def line(label: str, text: str) -> None:
    """A label and what it stands for."""
    say(f"{label:<20} {text}")


def point(values: list[float]) -> str:
    """(1, 1)."""
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
