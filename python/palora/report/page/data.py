"""The data of a page, as JSON types. ``assets/`` shows them; a server may add ``"live"`` and change nothing else.

* ``format``: "palora page 1"; ``version``: of palora; ``title``.
* ``tasks``: T names. ``columns``: what was measured, each ``{"name", "label", "kind": "loss" | "metric", "high":
  whether larger is better, "factor": what values are multiplied by to be shown, "task": its position or null}``.
  ``axes``: the column of each task that is shown first.
* ``groups``: labels of runs that differ by their seed alone. ``rows``: the comparison, one a group
  (:func:`palora.report.comparison.row`). ``reference``: of the hypervolume of losses. ``remarks``: sentences.
* ``runs``: each ``{"group", "seed", "name", "folder", "command": the folder as a shell reads it, "method", "recipe",
  "split", "checkpoint", "epochs", "note", "rays": (K, T), "values": one list a column, null where not finite,
  "nondominated": (K,), "common": (K,) among all runs, "hypervolume": {"losses", "accuracies"}, "spearman": (T,),
  "curves": {"epoch", "losses": one list a task, "validated": epochs, "hypervolume", "nondominated"},
  "config", "environment": name → text, "costs", "samples": null or what :func:`read_samples` gives}``.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import palora
from palora.engine import RunFolder, read_metrics
from palora.evaluation import Front, larger_is_better, monotonicity
from palora.evaluation.direction import metrics_of_task
from palora.report import style
from palora.report.columns import columns as values_of
from palora.report.columns import loss_names, metric_names
from palora.report.comparison import Numbers, Run, compare, numbers, rows
from palora.report.page.samples import read_samples

FORMAT = "palora page 1"
SAMPLE_BYTES = 3_500_000
"""What the samples of all runs may take up together."""
CURVE_POINTS = 400


def payload(folders: Iterable[Path | str], samples: bool = True) -> dict[str, Any]:
    """The data of a page on evaluated run folders. `samples`: with inputs and answers, of one run a group.

    PaloraError for folders that are no evaluated runs or have other tasks.
    """
    comparison = compare(folders)
    runs = comparison.runs
    names = _names([run.front for run in runs])
    front = runs[0].front
    found = numbers(comparison)
    entries: list[dict[str, Any]] = []
    left = SAMPLE_BYTES
    for index, group in enumerate(comparison.groups):
        for run in group.runs:
            entry = {"group": index, **_entry(run, names, found[len(entries)]), "samples": None}
            if samples and run is group.runs[0]:
                kept = read_samples(RunFolder(run.folder).samples_file, len(front.tasks))
                size = len(json.dumps(kept))
                if kept is not None and size <= left:
                    entry["samples"], left = kept, left - size
            entries.append(entry)
    return {
        "format": FORMAT,
        "version": palora.__version__,
        "title": ", ".join(dict.fromkeys(run.config.recipe for run in runs)),
        "tasks": list(front.tasks),
        "columns": [_column(name, front.tasks) for name in names],
        "axes": _axes(front, names),
        "groups": [group.label for group in comparison.groups],
        "rows": rows(comparison, found),
        "reference": comparison.reference,
        "remarks": comparison.remarks,
        "runs": entries,
    }


def _names(fronts: list[Front]) -> list[str]:
    """Losses first, then every metric that any run has and that is not its task's loss under another name."""
    metrics = dict.fromkeys(name for front in fronts for name in front.metrics)
    return [*loss_names(fronts[0]), *(name for name in metrics if not all(_is_loss(front, name) for front in fronts))]


def _is_loss(front: Front, name: str) -> bool:
    owners = [t for t, task in enumerate(front.tasks) if metrics_of_task(task, [name])]
    return len(owners) == 1 and name in front.metrics and torch.equal(front.metrics[name], front.losses[:, owners[0]])


def _axes(front: Front, names: list[str]) -> list[int]:
    """For each task its metric, or its loss where they are the same."""
    metrics = metric_names(front) or loss_names(front)
    chosen = zip(metrics, loss_names(front), strict=True)
    return [names.index(metric if metric in names else loss) for metric, loss in chosen]


def _column(name: str, tasks: tuple[str, ...]) -> dict[str, Any]:
    owners = [t for t, task in enumerate(tasks) if metrics_of_task(task, [name])]
    return {
        "name": name,
        "label": style.label(name),
        "kind": "loss" if name in [f"loss/{task}" for task in tasks] else "metric",
        "high": larger_is_better(name),
        "factor": style.shown(name),
        "task": owners[0] if owners else None,
    }


def _entry(run: Run, names: list[str], found: Numbers) -> dict[str, Any]:
    front, config = run.front, run.config
    return {
        "seed": config.seed,
        "name": run.folder.name or str(run.folder),
        "folder": str(run.folder),
        "command": shlex.quote(str(run.folder)),
        "method": config.method,
        "recipe": config.recipe,
        **{key: run.text(key) for key in ("split", "checkpoint", "epochs")},
        "note": front.note,
        "rays": _plain(front.rays, 6),
        "values": _plain(values_of(front, names).T, 7),
        "nondominated": found.nondominated,
        "common": found.common,
        "hypervolume": {"losses": found.losses, "accuracies": found.accuracies},
        "spearman": _plain(_monotonicity(front), 4),
        "parameters": run.parameters,
        "curves": _curves(run),
        "config": {key: _text(value) for key, value in config.to_dict().items()},
        "environment": _environment(RunFolder(run.folder).environment_file),
    }


def _monotonicity(front: Front) -> Tensor:
    """Over the rays whose losses are numbers."""
    known = front.losses.isfinite().all(1)
    return monotonicity(front.rays[known], front.losses[known])


def _plain(values: Tensor, digits: int) -> Any:
    """Nested lists with so many significant digits; None where not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None

    return plain(values.double().tolist())


def _curves(run: Run) -> dict[str, Any]:
    """Training losses and validation by epoch, at most CURVE_POINTS of each."""
    path = RunFolder(run.folder).metrics_file
    records = [r for r in read_metrics(run.folder) if r.get("kind") == "epoch"] if path.exists() else []
    records = records[:: max(1, math.ceil(len(records) / CURVE_POINTS))]
    validated = [r for r in records if "validation" in r]
    losses = torch.tensor([r["losses"] for r in records], dtype=torch.float64).reshape(-1, len(run.front.tasks))
    volumes = torch.tensor([r["validation"]["hypervolume"] for r in validated], dtype=torch.float64)
    return {
        "epoch": [int(r["epoch"]) for r in records],
        "losses": _plain(losses.T, 5),
        "validated": [int(r["epoch"]) for r in validated],
        "hypervolume": _plain(volumes, 5),
        "nondominated": [int(r["validation"]["nondominated"]) for r in validated],
    }


def _environment(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): _text(value) for key, value in content.items()} if isinstance(content, dict) else {}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 500 else text[:499] + "…"
