"""What the registry knows of a data set or source."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from palora.data.download import Progress
from palora.data.types import Dataset

Folder = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Entry:
    """One name of the registry.

    Attributes:
        name: what the user types.
        needs: what it is made of, in a few words.
        licence: of the data.
        size: download or file size, in words.
        locate: (folder) → where what it needs lies, or None.
        prepare: (folder, progress) → where it lies now; downloads or builds whatever is missing.
        load: (folder=, seed=, **options) → the data set; None for files that other sets are built from.
    """

    name: str
    needs: str
    licence: str
    size: str
    locate: Callable[[Folder], Path | None]
    prepare: Callable[[Folder, Progress | None], Path]
    load: Callable[..., Dataset] | None = None


@dataclass(frozen=True)
class Description:
    """One row of `palora data list`."""

    name: str
    needs: str
    present: bool
    where: str
    licence: str
    size: str
