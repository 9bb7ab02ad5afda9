"""Names of the data sets. A new one is one file with an `Entry`, and its line here."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

from palora.data import (
    census,
    cityscapes,
    fashion_mnist,
    mnist,
    multifashion,
    multimnist,
    multimnist3,
    nyuv2,
    sarcos,
    utkface,
)
from palora.data.download import Progress
from palora.data.entry import Description, Entry, Folder
from palora.data.folder import data_root, origin
from palora.data.types import Dataset
from palora.errors import PaloraError
from palora.suggest import unknown
from palora_kernels.typed import Range, check_arguments, conform

_ARGUMENTS = ("folder", "seed")

_ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        multimnist.SMALL,
        multimnist.COMPLETE,
        multimnist3.SET.entry,
        multifashion.GARMENTS.entry,
        multifashion.MIXED.entry,
        census.ENTRY,
        sarcos.ENTRY,
        utkface.ENTRY,
        cityscapes.ENTRY,
        nyuv2.ENTRY,
        mnist.ENTRY,
        fashion_mnist.ENTRY,
    )
}


def names() -> list[str]:
    """The data sets that `load` knows."""
    return [name for name, entry in _ENTRIES.items() if entry.load is not None]


def load(name: str, *, folder: Folder = None, seed: int = 0, **options: Any) -> Dataset:
    """Load a data set as tensors.

    Args:
        name: one of `names()`.
        folder: data root; default PALORA_DATA, else the cache folder (see `palora.data.folder.data_root`).
        seed: of whatever is drawn when the set is made; nothing in it depends on any other random state.
        options: those of the data set's own loader, such as `offset` and `limit` of MultiMNIST.

    Raises:
        PaloraError: no such name or option, or the files are missing or damaged.
    """
    entry = _ENTRIES.get(name)
    if entry is None or entry.load is None:
        raise PaloraError(unknown("data set", name, names()))
    known = [option for option in inspect.signature(entry.load).parameters if option not in _ARGUMENTS]
    for option in options:
        if option not in known:
            raise PaloraError(unknown(f"option of {name}", option, known))
    seed = conform("seed", seed, Annotated[int, Range(0, 2**63 - 1)])
    shown = {name: value for name, value in options.items() if name != "progress"}
    return entry.load(folder=folder, seed=seed, **{**options, **check_arguments(entry.load, shown)})


def prepare(name: str, folder: Folder = None, progress: Progress | None = None) -> Path:
    """Download or build what `name` needs, unless it is there already; returns where it lies.

    Raises:
        PaloraError: no such name, or it could not be had: the message says why and what to do instead.
    """
    if name not in _ENTRIES:
        raise PaloraError(unknown("data set", name, _ENTRIES))
    return _ENTRIES[name].prepare(folder, progress)


def describe(folder: Folder = None) -> list[Description]:
    """One row per name, sources included: what it needs and whether that is present."""
    rows = []
    for entry in _ENTRIES.values():
        place = entry.locate(folder)
        where = str(place) if place else f"not in {data_root(folder)} ({origin(folder)})"
        rows.append(Description(entry.name, entry.needs, place is not None, where, entry.licence, entry.size))
    return rows
