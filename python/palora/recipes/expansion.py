"""Pareto expansion: a recipe, and a run whose model gets adapters (PaLoRA paper, Sec. 5.4)."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from palora import methods
from palora.engine import RunConfig
from palora.engine.expand import final_lr
from palora.errors import PaloraError
from palora.recipes.recipe import Recipe


def expanding(
    recipe: Recipe,
    run: Path,
    method: str | None = None,
    method_options: dict[str, Any] | None = None,
    dataset_options: dict[str, Any] | None = None,
    **overrides: Any,
) -> RunConfig:
    """The run that trains adapters alone, on the weights that the run in `run` ended with.

    W, biases, heads and normalisations stay as they are, statistics included. `recipe.expansion_epochs` epochs, at
    the learning rate that the other run ended with, unless `overrides` say otherwise; all else as in
    :meth:`Recipe.configure`. Raises PaloraError for a method that has no adapters.
    """
    chosen = methods.get(method or "palora")
    if "freeze_base" not in {field.name for field in fields(chosen.Options)}:
        raise PaloraError(f"--expand trains adapters on a fixed model, which '{chosen.name}' has not: use palora.")
    if "freeze_base" in (method_options or {}):
        raise PaloraError("--freeze-base is what --expand does: leave it out.")
    source = RunConfig.read(run / "config.json")
    settings = {"epochs": recipe.expansion_epochs, "lr": final_lr(source), "lr_milestones": (), **overrides}
    return recipe.configure(
        method=chosen.name,
        method_options={**(method_options or {}), "freeze_base": True},
        dataset_options=dataset_options,
        expand=str(run),
        **settings,
    )
