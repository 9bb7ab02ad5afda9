"""The complete description of a run: what config.json holds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palora.errors import PaloraError

PRECISIONS = ("fp32", "bf16")
GRIDS = ("lattice", "sarcos")
GRAPHS = ("auto", "on", "off")

WHERE = ("data", "device", "ray_chunk", "graph", "checkpoint_every")
"""Settings of where and how a run is computed, not of what: they may differ when it is resumed."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; with the same data, machine and threads it repeats bit for bit."""

    recipe: str
    dataset: str
    model: str
    epochs: int
    batch: int
    lr: float
    method: str = "palora"
    method_options: dict[str, Any] = field(default_factory=dict)
    dataset_options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    """Keep only the first samples of each split: to try things out."""
    lr_milestones: tuple[int, ...] = ()
    """Epochs at whose start the learning rate is multiplied by `lr_decay`."""
    lr_decay: float = 0.5
    seed: int = 0
    data_seed: int = 0
    """Seed of how the data set is made: runs that are compared share it, whatever their `seed`."""
    precision: str = "fp32"
    divisions: int = 10
    """Divisions of the preference grid, for validation and evaluation (T = 2: divisions + 1 rays)."""
    grid: str = "lattice"
    """Which rays: "lattice", or "sarcos" (see `palora.engine.grids`)."""
    validate_every: int = 1
    reference: tuple[float, ...] | None = None
    """Reference point of the hypervolume on losses; None: ones."""
    log_every: int = 50
    data: str | None = None
    device: str = "cpu"
    ray_chunk: int | str | None = "auto"
    """Most rays in one pass: a number, "all" (or None), or "auto": as many as the free memory holds."""
    compile: bool = False
    """Whether the forward pass and its backward go through torch.compile."""
    graph: str = "auto"
    """Whether steps are replayed from a CUDA graph: "on", "off", or "auto": on where they can be."""
    expand: str | None = None
    """Run whose trained model the adapters are put on (Pareto expansion)."""
    pretrained: str | None = None
    """File of weights that the model starts from."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; None: at the end of each epoch only."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "divisions", "validate_every", "log_every"):
            _at_least_one(name, getattr(self, name))
        for name in ("limit", "checkpoint_every"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if isinstance(self.ray_chunk, str):
            if self.ray_chunk not in ("auto", "all"):
                raise ValueError(f"`ray_chunk` should be an integer >= 1, 'auto' or 'all'. Found {self.ray_chunk!r}.")
        elif self.ray_chunk is not None:
            _at_least_one("ray_chunk", self.ray_chunk)
        if not self.lr > 0:
            raise ValueError(f"`lr` should be positive. Found {self.lr}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` should lie in 0 … 2**32 - 1. Found {self.seed}.")
        if self.grid not in GRIDS:
            raise ValueError(f"`grid` should be {' or '.join(GRIDS)}. Found {self.grid!r}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` should be {' or '.join(PRECISIONS)}. Found {self.precision!r}.")
        if self.graph not in GRAPHS:
            raise ValueError(f"`graph` should be {', '.join(GRAPHS[:-1])} or {GRAPHS[-1]}. Found {self.graph!r}.")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types: what :meth:`from_dict` reads, and what two configurations are compared by."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`; a key that does not belong raises PaloraError."""
        names = {f.name for f in dataclasses.fields(cls)}
        strange = sorted(set(values) - names)
        if strange:
            raise PaloraError(f"This version does not know the settings {', '.join(strange)} of the run.")
        values = dict(values)
        for name in ("lr_milestones", "reference"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a config.json; PaloraError if it is missing or damaged."""
        try:
            return cls.from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            raise PaloraError(f"{path.parent} is not a run folder: it has no config.json.") from None
        except (OSError, TypeError, ValueError) as error:
            raise PaloraError(f"{path} cannot be read: {error}") from error


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """(key, old, new) wherever two configurations differ; options are named as in "method_options.rank"."""
    return [
        (key, before.get(key), after.get(key))
        for before, after in [(_flat(old), _flat(new))]
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    ]


def _flat(config: RunConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.to_dict().items():
        if isinstance(value, dict):
            flat.update({f"{key}.{name}": item for name, item in value.items()})
        else:
            flat[key] = value
    return flat


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` should be an integer >= 1. Found {value}.")
