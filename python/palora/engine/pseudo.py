"""Pseudo-preferences: weights outside the simplex, which show what each task's adapters hold (PaLoRA, Fig. 6)."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from palora import methods
from palora.engine.config import RunConfig
from palora.engine.evaluate import Evaluation, write_front
from palora.engine.setup import assemble
from palora.engine.sole_writer import sole_writer
from palora.engine.state import load_checkpoint, load_weights
from palora.engine.validate import front_of
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.layers import adapted_layers


def pseudo_preferences(tasks: int) -> Tensor:
    """No adapters; one task's for and the others' against, task by task; all against: (T + 2, T).

    For two tasks the four of the paper: (0, 0), (1, −1), (−1, 1), (−1, −1).
    """
    one_for = 2 * torch.eye(tasks) - 1
    return torch.cat([torch.zeros(1, tasks), one_for, -torch.ones(1, tasks)])


def require_adapters(config: RunConfig) -> None:
    """PaloraError for a method without adapters, before anything is evaluated."""
    if "rank" not in {field.name for field in fields(methods.get(config.method).Options)}:
        raise PaloraError(f"Pseudo-preferences are for adapters, and the method '{config.method}' has none.")


def add_pseudo(result: Evaluation) -> tuple[Evaluation, Front]:
    """Evaluate a run at the pseudo-preferences too, on the split and checkpoint of `result`.

    They go into the summary of front.json under "pseudo", each with its ray, losses and metrics. Raises PaloraError
    for a model without adapters.
    """
    file = getattr(result.run, result.summary["checkpoint"])
    snapshot = load_checkpoint(file)
    parts = assemble(result.config)
    load_weights(parts.model, snapshot["model"], f"The checkpoint {file}")
    if not adapted_layers(parts.model):
        raise PaloraError(f"Pseudo-preferences are for adapters, and the method '{parts.method.name}' has none.")
    split = getattr(parts.dataset, result.summary["split"])
    rays = pseudo_preferences(len(parts.dataset.tasks))
    front = front_of(parts, result.config, split, rays, snapshot["position"].get("sweep_chunk"))
    content = json.loads(result.run.front_file.read_text())
    content["summary"]["pseudo"] = rows(front)
    with sole_writer(result.run.path):
        write_front(result.run, content)
    return replace(result, summary=content["summary"]), front


def rows(front: Front) -> list[dict[str, Any]]:
    """One dictionary a ray."""
    losses = {f"loss/{task}": front.losses[:, t].tolist() for t, task in enumerate(front.tasks)}
    columns = {**losses, **{name: values.tolist() for name, values in front.metrics.items()}}
    return [
        {"ray": ray, **{name: values[i] for name, values in columns.items()}}
        for i, ray in enumerate(front.rays.tolist())
    ]
