"""What was measured on a device: tiles of kernels and plans of ops, in one JSON file per device.

``palora bench --tune`` writes the user's own file; other files are shipped (`shipped`). `configs.settle` and `plans`
prefer their entries to arithmetic. They are read once per process, so two calls of a process never choose differently.
Needs no triton.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch

from palora_kernels import files as disk
from palora_kernels.reading import read_json
from palora_kernels.triton import shipped
from palora_kernels.typed import Range, conform, shown

Size = Annotated[int, Range(16, 65_536)]


@dataclass(frozen=True)
class Tile:
    """One program's part of a product: rows x columns of the result, ``depth`` of the reduction at a time.

    ``splits``: programs that share the reduction, where that is measured too; 0 leaves it to the arithmetic.
    """

    rows: Size
    columns: Size
    depth: Size
    num_warps: Annotated[int, Range(1, 64)]
    num_stages: Annotated[int, Range(1, 64)]
    splits: Annotated[int, Range(0, 65_536)] = 0


@dataclass(frozen=True)
class Tuning:
    """``tiles`` under `tile_key`, ``plans`` (names of algorithms) under "<kind> <key of plans.py>"."""

    tiles: Mapping[str, Tile] = field(default_factory=dict)
    plans: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tiles) + len(self.plans)


def bucket(size: int) -> int:
    """The power of two that a size rounds up to. By comparisons, so that a symbolic size stays symbolic."""
    power = 1
    while power < size:
        power *= 2
    return power


def tile_key(kernel: str, kind: str, rows: int, columns: int, depth: int) -> str:
    """Shapes share an entry if their sizes round up to the same powers of two."""
    return f"{kernel} {kind} " + "x".join(str(bucket(size)) for size in (rows, columns, depth))


# ---------------------------------------------------------------------------------------------------------------- file


OFF = "off"


def file_of(device: torch.device) -> Path | None:
    """The user's own: PALORA_TUNING if set, also for the interpreter; else a file named after the GPU in the cache.
    None on a CPU, and where PALORA_TUNING is "off"."""
    named = os.environ.get("PALORA_TUNING")
    if named:
        return None if named == OFF else Path(named).expanduser()
    if device.type != "cuda":
        return None
    cache = os.environ.get("PALORA_CACHE") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "palora")
    slug = shipped.slug(torch.cuda.get_device_name(device))
    return Path(cache).expanduser() / "tuning" / f"{slug}.json"


def files(device: torch.device) -> list[Path]:
    """What is read for a device, the first before the second: the user's own file, and the table that was shipped."""
    if os.environ.get("PALORA_TUNING") == OFF:
        return []
    own, table = file_of(device), shipped.table_of(device)
    return ([] if own is None else [own]) + ([] if table is None else [table[1]])


@functools.cache
def of(device: torch.device) -> Tuning:
    """The entries for a device; none where nothing was measured. Raises ValueError for a file that is damaged."""
    tiles: dict[str, Tile] = {}
    plans: dict[str, str] = {}
    for path in reversed(files(device) if device.type != "meta" else []):
        found = read(path)
        tiles |= found.tiles
        plans |= found.plans
    return Tuning(tiles, plans)


_generation = 0


def generation() -> int:
    """A number that changes when what was measured may have: what was chosen before is out of date."""
    return _generation


def forget() -> None:
    """Read everything again, files and environment, when next asked."""
    global _generation
    _generation += 1
    for cached in (read, of, shipped.tables):
        cached.cache_clear()


@functools.cache
def read(path: Path) -> Tuning:
    """The file's entries, none if there is no file. Raises ValueError for a file that is damaged."""
    if not path.exists():
        return Tuning()
    try:
        content = conform("", read_json(path), _File)
        return checked(content["tiles"], content["plans"])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} should hold what `palora bench --tune` measured. Found: {error} Delete it or measure again."
        ) from error


class _File(TypedDict):
    tiles: dict[str, dict[str, Any]]
    plans: dict[str, str]


def checked(tiles: Mapping[str, Any], plans: Mapping[str, Any]) -> Tuning:
    """Entries of a file; ValueError for a tile or a plan that no kernel has."""
    return Tuning(
        {name: _tile(f"tiles.{name}", entry) for name, entry in tiles.items()},
        {name: _plan(name, algorithm) for name, algorithm in plans.items()},
    )


def _tile(name: str, entry: Any) -> Tile:
    tile: Tile = conform(name, entry, Tile)
    for field_name, value in asdict(tile).items():
        if field_name not in ("num_stages", "splits") and value & (value - 1):
            raise ValueError(f"`{name}.{field_name}` should be a power of two. Found {value}.")
    return tile


def _plan(name: str, algorithm: Any) -> str:
    from palora_kernels.plans import ALGORITHMS

    op = name.split()[1] if len(name.split()) > 1 else name
    if algorithm not in ALGORITHMS.get(op, ()):
        raise ValueError(f"`plans.{name[:200]}` should be an algorithm of '{op[:50]}'. Found {shown(algorithm)}.")
    return str(algorithm)


def write(path: Path, measured: Tuning, about: Mapping[str, Any]) -> None:
    """Entries replace those of the same name; the others stay. ``about``: the device and the versions, for people."""
    before = read(path)
    content = {
        "about": dict(about),
        "tiles": {name: asdict(tile) for name, tile in sorted({**before.tiles, **measured.tiles}.items())},
        "plans": dict(sorted({**before.plans, **measured.plans}.items())),
    }
    disk.write(path, json.dumps(content, indent=1) + "\n")
    forget()


# -------------------------------------------------------------------------------------------------------------- trials


@dataclass
class Trial:
    """A measurement in progress: what to choose instead of the file's, and what was asked for."""

    tiles: Mapping[str, Tile]
    asked: dict[str, list[Tile]] = field(default_factory=dict)  # name of a launch -> tiles it may take
    costs: dict[str, dict[Tile, float]] = field(default_factory=dict)  # and what the arithmetic says of each
    plans: list[str] = field(default_factory=list)  # keys of plans.py


_trial: Trial | None = None


@contextmanager
def trying(tiles: Mapping[str, Tile]) -> Iterator[Trial]:
    """Inside, launches take these tiles by name, the others those of the arithmetic; the file is left out."""
    global _trial
    before, _trial = _trial, Trial(tiles)
    try:
        yield _trial
    finally:
        _trial = before


def trial() -> Trial | None:
    return _trial
