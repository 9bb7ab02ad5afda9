"""Several runs of several methods side by side: runs that differ by their seed alone are one line."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from palora.engine.config import WHERE, RunConfig, differences
from palora.engine.costs import Costs, read_costs
from palora.engine.run import RunFolder
from palora.errors import PaloraError
from palora.evaluation import Front, hypervolume, is_accuracy
from palora.report.columns import columns, metric_names, nondominated_rows

LONGEST_LABEL = 80


@dataclass(frozen=True)
class Run:
    """An evaluated run, read from its folder."""

    folder: Path
    config: RunConfig
    front: Front
    about: dict[str, Any]
    """The summary in front.json: plain values only are taken from it."""
    costs: Costs

    def text(self, key: str) -> str:
        """A word of the summary; empty where there is none."""
        value = self.about.get(key)
        return value if isinstance(value, str) else ""

    @property
    def parameters(self) -> int | None:
        value = self.about.get("parameters")
        return value if isinstance(value, int) else None


@dataclass(frozen=True)
class Group:
    """Runs with the same settings, one a seed."""

    label: str
    runs: list[Run]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, and how their hypervolumes are measured."""

    groups: list[Group]
    reference: list[float]
    """Of the losses, one for all runs; that of accuracies is 0."""
    remarks: list[str]
    """What makes the runs less than comparable."""

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]


def read_run(folder: Path | str) -> Run:
    """PaloraError if `folder` is no run folder, or was not evaluated."""
    run = RunFolder(folder)
    config = RunConfig.read(run.config_file)
    if not run.front_file.exists():
        raise PaloraError(f"{folder} has no front.json: run `palora evaluate {folder}` first.")
    front = Front.load(run.front_file)
    about = json.loads(run.front_file.read_text()).get("summary")
    return Run(Path(folder), config, front, about if isinstance(about, dict) else {}, read_costs(folder))


def compare(folders: Iterable[Path | str]) -> Comparison:
    """Read and group runs, in their order. PaloraError without any, for other tasks, and for a folder named twice."""
    runs = [read_run(folder) for folder in folders]
    if not runs:
        raise PaloraError("`runs` should name at least one run folder. Found none.")
    named: dict[Path, Run] = {}
    for run in runs:
        if named.setdefault(run.folder.resolve(), run) is not run:
            raise PaloraError(f"The run {run.folder} is named twice.")
        if run.front.tasks != runs[0].front.tasks:
            raise PaloraError(
                f"Runs can be compared on the same tasks only. {runs[0].folder} has {', '.join(runs[0].front.tasks)}, "
                f"{run.folder} has {', '.join(run.front.tasks)}."
            )
    reference = list(runs[0].config.reference or (1.0,) * len(runs[0].front.tasks))
    return Comparison(grouped(runs), reference, remarks(runs, reference))


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ by nothing but their seed and by where they ran, together; each group has a label of its own."""
    found: list[list[Run]] = []
    for run in runs:
        same = next((group for group in found if _same_but_seed(group[0], run)), None)
        if same is None:
            found.append([run])
        else:
            same.append(run)
    return [Group(label, group) for label, group in zip(_labels([group[0] for group in found]), found, strict=True)]


def _same_but_seed(first: Run, second: Run) -> bool:
    keys = ("split", "checkpoint", "epochs")
    same = all(first.text(key) == second.text(key) for key in keys)
    return same and all(key in (*WHERE, "seed") for key, _, _ in differences(first.config, second.config))


def _labels(firsts: list[Run]) -> list[str]:
    """The method, with what sets the group apart from others of that method."""
    labels = []
    for run in firsts:
        others = [other for other in firsts if other is not run and other.config.method == run.config.method]
        apart = {
            key: value
            for other in others
            for key, _, value in differences(other.config, run.config)
            if key not in (*WHERE, "seed")
        }
        apart.update({key: run.text(key) for other in others for key in _ABOUT if other.text(key) != run.text(key)})
        settings = [f"{key.rpartition('.')[2]} {value}" for key, value in apart.items()]
        label = ", ".join([run.config.method, *settings])
        labels.append(label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…")
    return [f"{label} ({i + 1})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


_ABOUT = ("split", "checkpoint", "epochs")


def remarks(runs: Sequence[Run], reference: list[float]) -> list[str]:
    """Sentences on what differs where it should not."""
    said = []
    for name, values in (
        ("recipes", {run.config.recipe for run in runs}),
        ("splits", {run.text("split") for run in runs}),
        ("seeds of the data", {str(run.config.data_seed) for run in runs}),
        ("limits on the data", {str(run.config.limit) for run in runs}),
    ):
        if len(values) > 1:
            said.append(f"The runs have different {name}: {', '.join(sorted(values))}.")
    if any(list(run.config.reference or (1.0,) * len(reference)) != reference for run in runs):
        said.append("The recipes name different reference points; all hypervolumes here use that of the first run.")
    return said


@dataclass(frozen=True)
class Numbers:
    """What one run comes to."""

    losses: float
    accuracies: float | None
    nondominated: list[bool]
    """Which rays no other ray of the run dominates, on losses."""
    common: list[bool]
    """Which rays no ray of any of the runs dominates."""


def numbers(comparison: Comparison) -> list[Numbers]:
    """One entry per run, in the order of `comparison.runs`."""
    fronts = [run.front for run in comparison.runs]
    everything = Front(torch.cat([f.rays.float() for f in fronts]), torch.cat([f.losses.double() for f in fronts]))
    common = nondominated_rows(everything).split([len(front) for front in fronts])
    return [
        Numbers(
            losses=_volume(front.losses, comparison.reference),
            accuracies=_accuracies(front),
            nondominated=nondominated_rows(front).tolist(),
            common=mask.tolist(),
        )
        for front, mask in zip(fronts, common, strict=True)
    ]


def _volume(losses: torch.Tensor, reference: list[float]) -> float:
    finite = losses[losses.isfinite().all(1)]
    return hypervolume(finite, torch.tensor(reference, dtype=torch.float64)) if len(finite) else 0.0


def _accuracies(front: Front) -> float | None:
    names = metric_names(front)
    if names is None or not all(is_accuracy(name) for name in names):
        return None
    values = columns(front, names)
    return hypervolume(values[values.isfinite().all(1)], 0.0, maximise=True)


def row(group: Group, found: Sequence[Numbers]) -> dict[str, Any]:
    """The line of a group: lists with a value a seed, None where it is not known."""
    costs = [run.costs for run in group.runs]
    return {
        "label": group.label,
        "seeds": [run.config.seed for run in group.runs],
        "rays": len(found[0].nondominated),
        "hypervolume_losses": [one.losses for one in found],
        "hypervolume_accuracies": [one.accuracies for one in found],
        "nondominated": [sum(one.nondominated) for one in found],
        "common": [sum(one.common) for one in found],
        "train_seconds": [cost.train_seconds for cost in costs],
        "parameters": [run.parameters for run in group.runs],
        "peak_memory": [cost.peak_memory for cost in costs],
        "peak_device_memory": [cost.peak_device_memory for cost in costs],
    }


def rows(comparison: Comparison, found: Sequence[Numbers]) -> list[dict[str, Any]]:
    """One :func:`row` per group, from the :func:`numbers` of all runs."""
    left = iter(found)
    return [row(group, [next(left) for _ in group.runs]) for group in comparison.groups]


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Over the seeds that have a value; no deviation of fewer than two."""
    known = [value for value in values if value is not None]
    if not known:
        return None, None
    return statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None
