"""The complete description of a run: what config.json holds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from palora import methods
from palora.errors import PaloraError
from palora.reading import reading
from palora_kernels.reading import read_json
from palora_kernels.typed import Range, check_fields, conform

WHERE = ("data", "device", "ray_chunk", "graph", "checkpoint_every")
"""Settings of where and how a run is computed, not of what: they may differ when it is resumed."""


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; with the same data, machine and threads it repeats bit for bit."""

    recipe: str
    dataset: str
    model: str
    epochs: Annotated[int, Range(1, 100_000)]
    batch: Annotated[int, Range(1, 10_000_000)]
    lr: Annotated[float, Range(0, 1e30, above=True)]  # what is too large for a model diverges, and the run says so
    method: str = "palora"
    method_options: dict[str, Any] = field(default_factory=dict)
    dataset_options: dict[str, Any] = field(default_factory=dict)
    model_options: dict[str, Any] = field(default_factory=dict)
    limit: Annotated[int, Range(1, 10**9)] | None = None
    """Keep only the first samples of each split: to try things out."""
    lr_milestones: tuple[Annotated[int, Range(0, 1_000_000)], ...] = ()
    """Epochs at whose start the learning rate is multiplied by `lr_decay`."""
    lr_decay: Annotated[float, Range(0, 1, above=True)] = 0.5
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    data_seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of how the data set is made: runs that are compared share it, whatever their `seed`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    divisions: Annotated[int, Range(1, 1000)] = 10
    """Divisions of the preference grid, for validation and evaluation (T = 2: divisions + 1 rays)."""
    grid: Literal["lattice", "sarcos"] = "lattice"
    """Which rays: "lattice", or "sarcos" (see `palora.engine.grids`)."""
    validate_every: Annotated[int, Range(1, 1_000_000)] = 1
    reference: tuple[float, ...] | None = None
    """Reference point of the hypervolume on losses; None: ones."""
    log_every: Annotated[int, Range(1, 10**9)] = 50
    data: str | None = None
    device: str = "cpu"
    ray_chunk: Annotated[int, Range(1, 1_000_000)] | Literal["auto", "all"] | None = "auto"
    """Most rays in one pass: a number, "all" (or None), or "auto": as many as the free memory holds."""
    compile: bool = False
    """Whether the forward pass and its backward go through torch.compile."""
    graph: Literal["auto", "on", "off"] = "auto"
    """Whether steps are replayed from a CUDA graph: "on", "off", or "auto": on where they can be."""
    expand: str | None = None
    """Run whose trained model the adapters are put on (Pareto expansion)."""
    pretrained: str | None = None
    """File of weights that the model starts from."""
    checkpoint_every: Annotated[int, Range(1, 10**9)] | None = None
    """Steps between checkpoints within an epoch; None: at the end of each epoch only."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.expand is not None and self.pretrained is not None:
            raise PaloraError(
                "`expand` and `pretrained` both say where the weights come from, and only one can: leave one out."
            )

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
            raise PaloraError(f"This version does not know the settings {', '.join(strange)[:200]} of the run.")
        config: RunConfig = conform("", values, cls)
        return config

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a config.json; PaloraError if it is missing or damaged."""
        if not path.exists():
            raise PaloraError(f"{path.parent} is not a run folder: it has no config.json.")
        with reading("The configuration", path):
            config = cls.from_dict(conform("", read_json(path), dict[str, Any]))
            methods.make_options(methods.get(config.method), config.method_options)
            return config


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
