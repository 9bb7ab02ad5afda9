"""An ablation: a grid of settings times seeds, run by run; what is finished is not run again."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

from palora.engine.config import RunConfig
from palora.engine.evaluate import evaluate
from palora.engine.finite import Diverged
from palora.engine.progress import Silent
from palora.engine.run import RunFolder
from palora.engine.sole_writer import sole_writer
from palora.engine.trainer import train
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.reading import read_record
from palora_kernels.typed import Range

MEASURES = ("hypervolume_losses", "hypervolume_accuracies", "nondominated", "spearman")
"""What a run of an ablation is summed up in; the second is None without accuracies."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid: its settings by name, its seed, its configuration and its folder."""

    settings: dict[str, Any]
    seed: int
    config: RunConfig
    folder: Path


def plan(
    grid: Mapping[str, Sequence[Any]],
    seeds: Sequence[int],
    out: Path,
    configure: Callable[[dict[str, Any], int], RunConfig],
) -> list[Cell]:
    """All combinations of the values in `grid`, in its order, each with all `seeds`.

    `configure` makes a configuration of settings and a seed. Folders are <out>/rank=1,alpha=2/seed0.
    """
    cells = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        folder = out / (label(settings) or "defaults")
        cells += [Cell(settings, seed, configure(settings, seed), folder / f"seed{seed}") for seed in seeds]
    return cells


def label(settings: dict[str, Any]) -> str:
    """ "rank=1,alpha=2": fit for a folder's name."""
    return re.sub(r"[^\w.,=+-]+", "_", ",".join(f"{name}={value}" for name, value in settings.items()))


def run_cell(cell: Cell, *, split: str = "validation", show: Silent | None = None) -> dict[str, Any]:
    """Train `cell`, or go on with it, or take it as finished; what its front on `split` comes to.

    A run that diverges counts as done, with the reason in "failed". Raises PaloraError if the folder holds a run
    with other settings, and Interrupted, after which the same call goes on.
    """
    with sole_writer(cell.folder):
        found = finished(cell, split)
        if found is None:
            try:
                begun = (cell.folder / "config.json").exists()
                train(cell.config, cell.folder, resume=begun, show=show)
            except Diverged as error:
                return {"settings": cell.settings, "seed": cell.seed, "failed": str(error)}
            found = evaluate(cell.folder, split=split, data=cell.config.data, device=cell.config.device).summary
    return {"settings": cell.settings, "seed": cell.seed, "folder": str(cell.folder), **measures(found)}


def finished(cell: Cell, split: str) -> dict[str, Any] | None:
    """The summary of the run's front on `split` if it was trained to the end and evaluated, else None."""
    file = cell.folder / "front.json"
    if not file.exists():
        return None
    RunFolder.resumable(cell.folder, cell.config)  # another run than the one asked for is an error
    try:
        Front.load(file)
        summary: dict[str, Any] = read_record(file, _Summarised, "The front")["summary"]
    except PaloraError:
        return None  # evaluated again
    epochs = cell.config.epochs
    return summary if (summary["split"], summary["epochs"]) == (split, f"{epochs} of {epochs}") else None


class _Volumes(TypedDict):
    losses: float
    accuracies: float | None


class _Counts(TypedDict):
    count: Annotated[int, Range(0, 10**9)]


class _Best(TypedDict):
    value: float


class Summary(TypedDict):
    """What an ablation reads of the summary in a front.json."""

    split: str
    epochs: str
    hypervolume: _Volumes
    nondominated: _Counts
    spearman: dict[str, float | None]
    best_of_grid: dict[str, _Best]


class _Summarised(TypedDict):
    summary: Summary


def measures(summary: dict[str, Any]) -> dict[str, Any]:
    """:data:`MEASURES` and the best of the grid of one run, from the summary in its front.json."""
    ranks = [value for value in summary["spearman"].values() if value is not None]
    return {
        "hypervolume_losses": summary["hypervolume"]["losses"],
        "hypervolume_accuracies": summary["hypervolume"]["accuracies"],
        "nondominated": summary["nondominated"]["count"],
        "spearman": statistics.fmean(ranks) if ranks else None,
        "best_of_grid": {name: best["value"] for name, best in summary["best_of_grid"].items()},
    }


def by_setting(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a setting: {"settings", "seeds", "failed", and mean and deviation over the seeds of each measure}."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        rows.setdefault(label(run["settings"]), []).append(run)
    table = []
    for group in rows.values():
        good = [run for run in group if "failed" not in run]
        row = {"settings": group[0]["settings"], "seeds": [run["seed"] for run in group]}
        row["failed"] = [run["seed"] for run in group if "failed" in run]
        for name in MEASURES:
            values = [run[name] for run in good if run[name] is not None]
            row[name] = statistics.fmean(values) if values else None
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
        table.append(row)
    return table


def best(rows: Sequence[dict[str, Any]]) -> int | None:
    """The row of the largest mean hypervolume: of the accuracies if there are any, else of the losses."""
    name = chosen_hypervolume(rows)
    known = [(row[name], -i) for i, row in enumerate(rows) if row[name] is not None and not row["failed"]]
    return -max(known)[1] if known else None


def chosen_hypervolume(rows: Iterable[dict[str, Any]]) -> str:
    """Which of the two hypervolumes the settings are compared by."""
    accuracies = any(row.get("hypervolume_accuracies") is not None for row in rows)
    return "hypervolume_accuracies" if accuracies else "hypervolume_losses"
