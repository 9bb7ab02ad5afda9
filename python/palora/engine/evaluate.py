"""Evaluate a trained run: its front on the test split, and what the front is worth, in front.json."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora.engine.config import RunConfig
from palora.engine.grids import grid_of
from palora.engine.run import RunFolder
from palora.engine.setup import Parts, assemble
from palora.engine.sole_writer import sole_writer
from palora.engine.state import load_checkpoint, load_weights
from palora.engine.validate import front_of
from palora.errors import PaloraError
from palora.evaluation import Front, summary
from palora.files import write_file
from palora.rays.grid import fixed_rays


@dataclass(frozen=True)
class Evaluation:
    """The front of a run and its numbers (:func:`palora.evaluation.summary`, and where they come from)."""

    run: RunFolder
    config: RunConfig
    front: Front
    summary: dict[str, Any]


def evaluate(
    folder: Path | str,
    *,
    split: str = "test",
    checkpoint: str = "last",
    data: str | None = None,
    device: str | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> Evaluation:
    """Sweep the recipe's grid of rays over `split` in shared passes and write front.json into the run folder.

    `checkpoint`: "last" (the papers' choice) or "best" (by validation hypervolume). `data`, `device` and
    `make_model` replace those of the training. Raises PaloraError for what is no run, is damaged, cannot be written or
    is written by another process. front.json is a :class:`Front` with one more key, "summary".
    """
    run = RunFolder(folder)
    config = RunConfig.read(run.config_file)
    config = replace(config, data=data or config.data, device=device or config.device)
    if split not in ("train", "validation", "test"):
        raise PaloraError(f"`split` should be train, validation or test. Found {split!r}.")
    if checkpoint not in ("last", "best"):
        raise PaloraError(f"`checkpoint` should be last or best. Found {checkpoint!r}.")
    if not run.started():
        raise PaloraError(
            f"{run.path} has no checkpoint: its training ended before the first one. Go on with: "
            f"{shlex.join(['palora', 'train', config.recipe, '--out', str(run.path), '--resume'])}"
        )
    with sole_writer(run.path):
        file = run.last if checkpoint == "last" else run.best
        snapshot = load_checkpoint(file)
        parts = assemble(config, make_model)
        load_weights(parts.model, snapshot["model"], f"The checkpoint {file}")

        grid = grid_of(parts.method, config)
        more = missing_rays(grid) if len(grid) > 1 else grid[:0]
        chunk = snapshot["position"].get("sweep_chunk")
        everything = front_of(parts, config, getattr(parts.dataset, split), torch.cat([grid, more]), chunk)
        front = rows(everything, slice(0, len(grid)))
        reference = config.reference or (1.0,) * len(parts.dataset.tasks)
        numbers = {
            **provenance(config, parts, snapshot["position"], split, checkpoint),
            **summary(front, reference, fixed=everything),
        }
        write_front(run, {**json.loads(front.to_json()), "summary": numbers})
    return Evaluation(run, config, front, numbers)


def write_front(run: RunFolder, content: dict[str, Any]) -> None:
    """Write front.json."""
    write_file(run.front_file, json.dumps(content, indent=1, allow_nan=False) + "\n")


def missing_rays(grid: Tensor) -> Tensor:
    """Those of the vertices and the centre that are not on `grid` (K, T): what one asks for first."""
    fixed = fixed_rays(grid.shape[1]).to(grid)
    far = torch.cdist(fixed, grid, p=float("inf")).amin(1) > 1e-5
    return fixed[far]


def rows(front: Front, which: slice) -> Front:
    """The front with some of its rays only."""
    metrics = {name: values[which] for name, values in front.metrics.items()}
    return replace(front, rays=front.rays[which], losses=front.losses[which], metrics=metrics)


def provenance(
    config: RunConfig, parts: Parts, position: dict[str, Any], split: str, checkpoint: str
) -> dict[str, Any]:
    """Which model these numbers are of."""
    parameters = sum(p.numel() for p in parts.model.parameters())
    return {
        "recipe": config.recipe,
        "method": config.method,
        "seed": config.seed,
        "split": split,
        "checkpoint": checkpoint,
        "epochs": f"{position['epoch']} of {config.epochs}",
        "parameters": parameters,
    }


def controls_beside(folder: Path, tell: Callable[[str], None] | None = None) -> dict[str, Front]:
    """Single points of other finished runs next to `folder` that trained the same thing by another method.

    Method name → front. The same means: recipe, data, model, epochs, seed and limit; the runs' names do not
    matter. A damaged neighbour is left out; `tell` is told which of its files it is.
    """
    own = RunConfig.read(folder / "config.json")
    found: dict[str, Front] = {}
    for sibling in sorted(folder.resolve().parent.iterdir()):
        if sibling == folder.resolve() or not (sibling / "front.json").exists():
            continue
        try:
            config, front = RunConfig.read(sibling / "config.json"), Front.load(sibling / "front.json")
        except (PaloraError, OSError) as error:
            if tell is not None:
                tell(str(error))
            continue
        comparable = all(getattr(config, key) == getattr(own, key) for key in _COMPARABLE)
        if comparable and len(front) == 1 and config.method != own.method:
            found.setdefault(config.method, front)
    return found


_COMPARABLE = ("recipe", "dataset_options", "data_seed", "model", "model_options", "epochs", "limit", "seed")
