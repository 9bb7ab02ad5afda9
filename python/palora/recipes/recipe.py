"""What a recipe is: the settings of a published experiment, from which flags make a run."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from palora import methods
from palora.engine import RunConfig
from palora.errors import PaloraError

MACHINE = "two cores of an AMD EPYC (a shared virtual machine)"
"""What `Recipe.takes` was measured on."""


@dataclass(frozen=True)
class Recipe:
    """The settings of an experiment, and where they come from."""

    name: str
    summary: str
    """One line for the list of recipes."""
    source: str
    """Which paper or code says so."""
    dataset: str
    model: str
    epochs: int
    batch: int
    lr: float
    dataset_options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    method: str = "palora"
    method_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Method → its options where this experiment differs from the method's defaults."""
    expansion_epochs: int = 4
    """Epochs of a Pareto expansion (`palora train RECIPE --expand RUN`)."""
    lr_milestones: tuple[int, ...] = ()
    lr_decay: float = 0.5
    divisions: int = 10
    grid: str = "lattice"
    validate_every: int = 1
    reference: tuple[float, ...] | None = None
    takes: str = ""
    """How long training and evaluating the recipe's own method took on MACHINE; estimates say so."""

    def configure(
        self,
        method: str | None = None,
        method_options: dict[str, Any] | None = None,
        dataset_options: dict[str, Any] | None = None,
        **overrides: Any,
    ) -> RunConfig:
        """The run of this recipe with some settings replaced: fields of :class:`RunConfig` by name.

        `method_options` and `dataset_options` are laid over the recipe's. The method's defaults are written
        out, so that config.json says everything. Unknown options raise PaloraError, bad values ValueError.
        """
        chosen = methods.get(method or self.method)
        recipes_options = self.method_options.get(chosen.name, {})
        options = methods.make_options(chosen, {**recipes_options, **(method_options or {})})
        methods.refuse_idle(chosen, options, method_options or {})
        strange = set(dataset_options or {}) - set(self.dataset_options)
        if strange:
            known = ", ".join(self.dataset_options) or "none"
            raise PaloraError(f"The data of recipe '{self.name}' has no option `{min(strange)}`. It has: {known}.")
        shared = {f.name for f in fields(self)} & {f.name for f in fields(RunConfig)}
        settings = {name: getattr(self, name) for name in shared}
        return RunConfig(
            **{
                **settings,
                **overrides,
                "recipe": self.name,
                "method": chosen.name,
                "method_options": {f.name: getattr(options, f.name) for f in fields(options)},
                "dataset_options": {**self.dataset_options, **(dataset_options or {})},
            }
        )
