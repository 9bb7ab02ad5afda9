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
from typing import Any

import torch

from palora_kernels import files as disk
from palora_kernels.triton import shipped


@dataclass(frozen=True)
class Tile:
    """One program's part of a product: rows x columns of the result, ``depth`` of the reduction at a time.

    ``splits``: programs that share the reduction, where that is measured too; 0 leaves it to the arithmetic.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int
    splits: int = 0


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
    if not path.is_file():
        return Tuning()
    try:
        content = json.loads(path.read_text())
        tiles = {str(name): _tile(entry) for name, entry in content["tiles"].items()}
        plans = {str(name): _plan(name, algorithm) for name, algorithm in content["plans"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} should hold what `palora bench --tune` measured. Found: {reason}. Delete it or measure again."
        ) from error
    return Tuning(tiles, plans)


def _tile(entry: Any) -> Tile:
    tile = Tile(**entry)
    for name, value in asdict(tile).items():
        least = {"num_warps": 1, "num_stages": 1, "splits": 0}.get(name, 16)
        any_number = name in ("num_stages", "splits")
        good = type(value) is int and value >= least and (any_number or value & (value - 1) == 0)
        if not good:
            raise ValueError(f"{name} {value!r} of a tile")
    return tile


def _plan(name: str, algorithm: Any) -> str:
    from palora_kernels.plans import ALGORITHMS

    op = name.split()[1] if len(name.split()) > 1 else name
    if algorithm not in ALGORITHMS.get(op, ()):
        raise ValueError(f"plan {algorithm!r} of {name!r}")
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
