"""Every figure that fits a set of finished runs of one recipe, drawn into a folder.

python -m palora.report.from_runs OUT palora=RUN,RUN pamal=RUN ls=RUN [--format pdf] [--scene 3]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from palora.bench.numbers import between
from palora.engine import RunConfig, read_metrics
from palora.engine.grids import grid_of
from palora.engine.run import RunFolder
from palora.engine.setup import assemble
from palora.engine.state import load_checkpoint, load_weights
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.rays import simplex_grid
from palora.report.curves import convergence_figure, hypervolume_figure
from palora.report.figures import front_figure
from palora.report.parallel import parallel_figure
from palora.report.saving import Where
from palora.report.scenes import scene_figure
from palora.report.solid import space_figure


def draw_runs(
    runs: Mapping[str, Sequence[Path]],
    out: Path,
    kind: str = "png",
    scene: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw what fits: hypervolume and convergence curves, the front, for three tasks the front in space, for four
    and more parallel coordinates, and with `scene`, test picture number `scene` of dense tasks along the rays.

    Args:
        runs: method → evaluated run folders, one a seed. Runs with one ray are shown as points.
        out: folder, made if need be.
        kind: "png", "pdf" or "svg".
        tell: what is told of each run that is left out because a file of it is missing or damaged; None: such a run is
            an error.

    Returns the files. PaloraError for a folder that is no evaluated run, and where none is left.
    """
    runs, fronts = _sound(runs, tell)
    curves = {name: several for name, several in fronts.items() if len(several[0]) > 1}
    points = {name: several for name, several in fronts.items() if len(several[0]) == 1}
    drawn: list[Path] = []

    def path(name: str) -> Path:
        drawn.append(out / f"{name}.{kind}")
        return drawn[-1]

    hypervolume_figure(dict(runs), path("hypervolume"))
    convergence_figure(dict(runs), path("convergence"))
    tasks = len(next(iter(fronts.values()))[0].tasks)
    if curves:
        front_figure(curves, path("front"), points=points)
        if tasks == 3:
            space_figure(curves, path("space"), points=points)
        if tasks > 3:
            parallel_figure(curves, path("parallel"), points=points)
    if scene is not None:
        for name, folders in runs.items():
            run_scene(folders[0], path(f"scene-{name}"), scene)
    return drawn


def _sound(
    runs: Mapping[str, Sequence[Path]], tell: Callable[[str], None] | None
) -> tuple[dict[str, list[Path]], dict[str, list[Front]]]:
    """The runs whose files can be read, and their fronts."""
    folders: dict[str, list[Path]] = {}
    fronts: dict[str, list[Front]] = {}
    for name, several in runs.items():
        for run in several:
            try:
                front = Front.load(RunFolder(run).front_file)
                read_metrics(run)
            except PaloraError as error:
                if tell is None:
                    raise
                tell(f"left out: {error}")
                continue
            folders.setdefault(name, []).append(run)
            fronts.setdefault(name, []).append(front)
    if not fronts:
        raise PaloraError("None of the runs can be drawn: evaluate one first.")
    return folders, fronts


def run_scene(folder: Path, path: Where = None, sample: int = 0, data: str | None = None) -> None:
    """Test picture `sample` through a trained dense model at a few rays (see `palora.report.scenes`)."""
    run = RunFolder(folder)
    config = RunConfig.read(run.config_file)
    config = replace(config, data=data or config.data)
    parts = assemble(config)
    load_weights(parts.model, load_checkpoint(run.last)["model"], f"The checkpoint {run.last}")
    parts.model.eval()
    if not 0 <= sample < len(parts.dataset.test):
        raise PaloraError(f"`scene` should be a test picture in 0 … {len(parts.dataset.test) - 1}. Found {sample}.")
    inputs, targets = parts.dataset.test.rows(torch.tensor([sample]))
    if targets[0].dim() < 3:
        raise PaloraError(f"{config.dataset} has no dense tasks: there is no scene to draw.")
    tasks = [task.name for task in parts.dataset.tasks]
    rays = grid_of(parts.method, config)
    if len(rays) > 1:
        rays = simplex_grid(len(tasks), 4 if len(tasks) == 2 else 2)
    answers = []
    with torch.no_grad():
        for ray in rays:  # one at a time: pictures are large
            outputs = parts.method.forward(parts.model, parts.place(inputs), ray[None].to(parts.device))
            answers.append([output[0, 0].float().cpu() for output in outputs])
    stacked = [torch.stack(column) for column in zip(*answers, strict=True)]
    scene_figure(inputs[0], [target[0] for target in targets], stacked, rays, tasks, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="METHOD=RUN[,RUN…]")
    parser.add_argument("--format", default="png", choices=("png", "pdf", "svg"))
    parser.add_argument("--scene", type=between(0, 10**9, int))
    given = parser.parse_args()
    runs = {}
    for word in given.runs:
        name, _, folders = word.partition("=")
        runs[name] = [Path(folder) for folder in folders.split(",")]

    def tell(text: str) -> None:
        print(f"palora: {text}", file=sys.stderr)

    try:
        for path in draw_runs(runs, given.out, given.format, given.scene, tell):
            print(path)
    except (PaloraError, ValueError) as error:
        parser.exit(1, f"palora: {error}\n")


if __name__ == "__main__":
    main()
