"""Where data lies: an argument, else PALORA_DATA, else the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

from palora.errors import PaloraError


def cache_root() -> Path:
    """Folder for what can be made anew: PALORA_CACHE, else ~/.cache/palora. It need not exist."""
    return Path(os.environ.get("PALORA_CACHE") or "~/.cache/palora").expanduser()


def data_root(folder: str | os.PathLike[str] | None = None) -> Path:
    """Folder with one sub-folder per source: `folder`, else PALORA_DATA, else <cache root>/data.

    It need not exist. Exactly one of the three is used, so that a mistyped folder is an error and never
    silently replaced by another copy.
    """
    chosen = folder if folder is not None else os.environ.get("PALORA_DATA") or cache_root() / "data"
    return Path(chosen).expanduser()


def origin(folder: str | os.PathLike[str] | None = None) -> str:
    """Who named the data root; for messages."""
    if folder is not None:
        return "as given"
    return "from PALORA_DATA" if os.environ.get("PALORA_DATA") else "the default"


def ensure_folder(path: Path) -> Path:
    """Make `path` and its parents; `PaloraError` if that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PaloraError(
            f"Cannot make the folder {path} ({error.strerror or error}): name a writable one with --data "
            "DIR, PALORA_DATA or PALORA_CACHE."
        ) from error
    return path
